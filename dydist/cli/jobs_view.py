"""Job statuses as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dydist.jobs.submission.logs import failure_header
from dydist.jobs.submission.reasons import explain
from dydist.jobs.submission.status import JobStatus
from dydist.text import display

COLOURS = {
    "running": "green",
    "done": "blue",
    "failed": "red",
    "lost": "red",
    "gone": "red",
    "requeued": "yellow",
    "pending": "yellow",
}


def render(found: Sequence[JobStatus]) -> RenderableType:
    """One line per job, then one per failure or reason; for a single job also its requeues."""
    parts: list[RenderableType] = []
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("job", "run", "state", "nodes", "step", "loss", "acc", "img/s", "ETA", "saved"):
        table.add_column(
            name,
            no_wrap=name != "run",  # two runs of a sweep may differ only in the last letter
            overflow="fold" if name == "run" else "ellipsis",
            min_width=None if name in ("run", "nodes") else len(name),
        )
    for one in found:
        table.add_row(*_row(one))
    parts.append(table)
    for one in found:
        if header := failure_header(one):
            parts.append(display.cell(f"{one.job}: {header}", style="red"))
            repeats = " ".join(one.reason.split()) in header or header.partition(": ")[2] in one.reason
        else:
            repeats = False
        notes = [
            "" if repeats else one.reason,
            explain(one.reason).replace("JOB", one.job),
            one.message if len(found) == 1 else "",
        ]
        if any(notes):
            parts.append(display.cell(f"{one.job}: " + " · ".join(note for note in notes if note)))
        parts += [display.cell(f"  | {line}") for line in one.output]
    if len(found) == 1:
        for start in found[0].requeues:
            where = " (restarted in place)" * (start["action"] == "restart")
            parts.append(display.cell(f"start {start['start']} ended{where}: {start['reason']}"))
    return Group(*parts)


def _row(one: JobStatus) -> list[Text | str]:
    run = one.run
    step = "" if run.get("step") is None else f"{run['step']}/{run.get('total_steps') or '?'}"
    saved = ""
    if one.last_checkpoint and one.checkpoint_age_s is not None:
        failed = "!" if one.last_checkpoint.get("error") else ""
        saved = f"{one.last_checkpoint['step']}{failed} {duration(one.checkpoint_age_s)} ago"
    return [
        display.cell(one.job), display.cell(one.name), display.cell(one.state, COLOURS.get(one.state, "")),
        display.cell(one.nodes), display.cell(step),
        _number(run, "loss", ".3f"), _number(run, "accuracy", ".1%"), _number(run, "images_per_s", ".0f"),
        "" if one.ended or not _is_number(run.get("eta_s")) else duration(run["eta_s"]), display.cell(saved),
    ]  # fmt: skip


def _number(run: object, name: str, form: str) -> str:
    value = run.get(name) if isinstance(run, dict) else None
    return format(value, form) if _is_number(value) else "" if value is None else "?"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def duration(seconds: float) -> str:
    """`2d03h`, `3h05m`, `4m07s`, `12s`."""
    whole = max(0, int(seconds))
    for size, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{name}{whole % size // below:02d}{small}"
    return f"{whole}s"
