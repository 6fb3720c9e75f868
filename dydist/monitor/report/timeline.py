"""The timeline of a run: starts, saves, warnings, ends, and the pauses between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from dydist.monitor.outputs.text import duration
from dydist.monitor.report.runs import RunData
from dydist.text.display import html

WIDTH = 1000


def timeline_section(run: RunData) -> str:
    """A bar per start, and a table of all events except successful saves."""
    if not run.events:
        return "<p>No events were logged.</p>"
    lives = session_spans(run)
    begin, end = (
        lives[0][0] if lives else run.events[0]["time"],
        max([run.events[-1]["time"], *(b for _, b in lives)]),
    )
    span: float = max(end - begin, 1e-9)

    def x(time: float) -> float:
        return (time - begin) / span * WIDTH

    bars = "".join(
        f'<rect class="life" x="{x(a):.1f}" y="16" width="{max(2.0, x(b) - x(a)):.1f}" height="18"/>'
        for a, b in lives
    )
    marks = "".join(_mark(event, x(event["time"])) for event in run.events)
    listed = [event for event in run.events if not (event["kind"] == "checkpoint" and event["error"] is None)]
    rows = "".join(
        f'<tr class="{html(event.get("level", event["kind"]))}"><td>{_clock(event["time"])}</td>'
        f"<td>+{duration(event['time'] - begin)}</td><td>{html(event['kind'])}</td>"
        f"<td>{html(describe(event))}</td></tr>"
        for event in listed
    )
    saves = sum(event["kind"] == "checkpoint" and event["error"] is None for event in run.events)
    alive = sum(b - a for a, b in lives)
    return (
        f"<p>{len(run.starts)} start{'s' * (len(run.starts) != 1)}, {saves} saves, alive {duration(alive)} of "
        f"{duration(end - begin)}.</p>"
        f'<div class="wide"><svg class="timeline" viewBox="0 0 {WIDTH} 50" preserveAspectRatio="none" role="img" '
        f'aria-label="lives, saves and faults over time">{bars}{marks}</svg></div>'
        '<ul class="legend"><li><i class="life"></i>alive</li><li><i class="save"></i>saved</li>'
        '<li><i class="warning"></i>warning</li><li><i class="error"></i>error or failed</li></ul>'
        f'<details {"open" if len(listed) <= 40 else ""}><summary>{len(listed)} events</summary><div class="wide">'
        f'<table class="events"><tbody>{rows}</tbody></table></div></details>'
    )


def session_spans(run: RunData) -> list[tuple[float, float]]:
    """From each start to its last event or logged line, in unix time."""
    signs = sorted(
        [event["time"] for event in run.events]
        + [line["time"] for line in [*run.steps, *run.evaluations] if line.get("time")]
    )
    begins = [event["time"] for event in run.starts]
    spans = []
    for begin, following in zip(begins, [*begins[1:], float("inf")], strict=True):
        spans.append((begin, max([begin, *(time for time in signs if begin <= time < following)])))
    return spans


def describe(event: dict[str, Any]) -> str:
    """An event as a phrase."""
    match event["kind"]:
        case "start":
            job = f", job {event['job']}" if event.get("job") else ""
            count = event.get("world_size", 1)
            return f"step {event['step']:,} on {event.get('host', '?')}, {count} process{'es' * (count != 1)}{job}"
        case "checkpoint":
            return f"step {event['step']:,}: {event['error'] or 'saved'}"
        case "end":
            message = f": {event['message']}" if event.get("message") else ""
            return f"{event['state']} at step {event['step']:,}{message}"
        case _:
            return str(event.get("text", ""))


def faults(events: Sequence[dict[str, Any]]) -> int:
    """The number of warnings, errors, failed saves and failed ends."""
    return sum(_severity(event) in ("warning", "error") for event in events)


def _severity(event: dict[str, Any]) -> str:
    if event["kind"] == "checkpoint":
        return "save" if event["error"] is None else "warning"
    if event["kind"] == "end":
        return "error" if event["state"] == "failed" else "end"
    if event["kind"] == "note" and event.get("level") != "info":
        return str(event["level"])
    return ""


def _mark(event: dict[str, Any], x: float) -> str:
    kind = _severity(event)
    if kind not in ("save", "warning", "error"):
        return ""
    top, bottom = (36, 44) if kind == "save" else (4, 46)
    title = html(f"{_clock(event['time'])} {describe(event)}")
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"><title>{title}</title></line>'


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
