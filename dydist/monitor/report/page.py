"""The HTML page of the report: results, curves, versions and hardware, events."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dydist.monitor.outputs.text import duration, size
from dydist.monitor.report.assets import SCRIPT, STYLE
from dydist.monitor.report.charts import charts
from dydist.monitor.report.heat import attention_section, confusion_section
from dydist.monitor.report.runs import Group, RunData, group_runs
from dydist.monitor.report.svg import chart_svg
from dydist.monitor.report.timeline import faults, timeline_section
from dydist.text.display import html


def page(runs: Sequence[RunData]) -> str:
    """A self-contained HTML document."""
    groups = group_runs(runs)
    title = f"dydist report: {', '.join(run.name for run in runs)}"
    drawn = "".join(chart_svg(chart) for chart in charts(groups))
    sections = [
        f"<h1>{html(', '.join(run.name for run in runs))}</h1>",
        f"<p>{html(_subtitle(runs))}</p>",
        *(_tiles(group, named=len(groups) > 1) for group in groups),
        _runs_table(runs) if len(runs) > 1 else "",
        f'<h2>Curves</h2><p>Over training steps.</p><div class="charts">{drawn}</div>' if drawn else "",
        _each(runs, "Attention over time", attention_section),
        _each(runs, "Confusion matrix", confusion_section),
        _each(runs, "What happened", timeline_section),
        _each(runs, "Versions and hardware", _environment),
        f"<h2>Configuration</h2>{_configuration(runs)}",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{html(title)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}<script>{SCRIPT}</script></body></html>\n"
    )


def _subtitle(runs: Sequence[RunData]) -> str:
    config = runs[0].config
    if (factory := config.get("model.factory")) is not None:
        return f"{factory} on {config.get('data.name')}; times are UTC."
    network = f"{config.get('model.kind', '?')} ResNet-18"
    if config.get("model.kind") == "dynamic":
        network += f", {config.get('model.kernels')} kernels"
    return f"{network}, width {config.get('model.width')}, on {config.get('data.name')}; times are UTC."


def _tiles(group: Group, *, named: bool) -> str:
    runs = group.runs
    tiles = []
    last = [run.accuracies[-1] for run in runs if run.accuracies]
    best = [max(run.accuracies) for run in runs if run.accuracies]
    if last:
        split = " or ".join(sorted({run.split for run in runs if run.accuracies}))
        tiles.append((_spread(last), f"last {split} accuracy"))
        tiles.append((_spread(best), f"best {split} accuracy"))
    if tested := [run.test_accuracy for run in runs if run.test_accuracy is not None]:
        tiles.append((_spread(tested), "test accuracy at the end"))
    steps = [run.steps[-1] for run in runs if run.steps]
    if steps:
        tiles.append((f"{max(line['step'] for line in steps):,}", "steps"))
        speeds = [statistics.median(line["images_per_s"] for line in run.steps) for run in runs if run.steps]
        tiles.append((f"{statistics.fmean(speeds):,.0f}", "images/s (median)"))
    tiles.append((duration(statistics.fmean(run.seconds for run in runs)), "time alive"))
    resumes = sum(max(0, len(run.starts) - 1) for run in runs)
    troubles = sum(faults(run.events) for run in runs)
    tiles += [(f"{resumes}", "resumes"), (f"{troubles}", "warnings and faults")]
    if len(runs) == 1:
        tiles.append((html(str(runs[0].status.get("state", "?"))), "state"))
    body = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in tiles)
    heading = f"<h3>{html(group.label)}</h3>" if named else ""
    return f'{heading}<div class="tiles">{body}</div>'


def _spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation in per cent, and n."""
    if len(values) == 1:
        return f"{values[0]:.2%}"
    return f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f} % (n={len(values)})"


def _runs_table(runs: Sequence[RunData]) -> str:
    rows = "".join(
        f"<tr><th>{html(run.name)}</th><td>{html(str(run.status.get('state', '?')))}</td>"
        f"<td class=n>{html(run.config.get('seed'))}</td>"
        f"<td class=n>{f'{run.accuracies[-1]:.2%}' if run.accuracies else ''}</td>"
        f"<td class=n>{f'{max(run.accuracies):.2%}' if run.accuracies else ''}</td>"
        f"<td>{html(run.split)}</td>"
        f"<td class=n>{run.steps[-1]['step'] if run.steps else 0:,}</td>"
        f"<td class=n>{duration(run.seconds)}</td><td class=n>{max(0, len(run.starts) - 1)}</td></tr>"
        for run in runs
    )
    head = "<th>run</th><th>state</th>" + "".join(
        f"<th class=n>{name}</th>" for name in ("seed", "last", "best", "on", "steps", "alive", "resumes")
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _each(runs: Sequence[RunData], title: str, section: Any) -> str:
    """A section per run, with the run's name above it if there are several."""
    bodies = [(run, body) for run in runs if (body := section(run))]
    if not bodies:
        return ""
    if len(runs) == 1:
        return f"<h2>{title}</h2>{bodies[0][1]}"
    parts = "".join(f"<details><summary>{html(run.name)}</summary>{body}</details>" for run, body in bodies)
    return f"<h2>{title}</h2>{parts}"


def _environment(run: RunData) -> str:
    """Versions and hardware of each start; a row for each change."""
    rows: list[str] = []
    before = None
    for event in run.starts:
        if "hardware" not in event:
            continue
        hardware, versions = event["hardware"], event["versions"]
        gpus = ", ".join(sorted(set(hardware["gpus"]))) or "no GPU"
        machine = f"{hardware['cpu']}, {hardware['cores']} cores, {size(hardware['memory_bytes'])}, {gpus}"
        shown = (event["host"], event["world_size"], machine, hardware["system"], tuple(versions.items()))
        if shown != before:
            packages = ", ".join(f"{name} {version}" for name, version in versions.items())
            cells = (
                f"step {event['step']:,}",
                event["host"],
                event["world_size"],
                machine,
                hardware["system"],
                packages,
            )
            rows.append("<tr>" + "".join(f"<td>{html(str(cell))}</td>" for cell in cells) + "</tr>")
        before = shown
    if not rows:
        return ""
    names = ("from", "host", "processes", "machine", "system", "versions")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _configuration(runs: Sequence[RunData]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    rows = []
    for name in names:
        values = [str(run.config.get(name, "")) for run in runs]
        differs = ' class="differs"' if len(set(values)) > 1 else ""
        shown = values if differs else values[:1]
        span = f' colspan="{len(runs)}"' if len(shown) < len(runs) else ""
        cells = "".join(f"<td{span}>{html(value)}</td>" for value in shown)
        rows.append(f"<tr{differs}><th>{html(name)}</th>{cells}</tr>")
    head = "".join(f"<th>{html(run.name)}</th>" for run in runs) if len(runs) > 1 else "<th>value</th>"
    return (
        f'<details><summary>{len(names)} values</summary><div class="wide"><table class="config">'
        f"<thead><tr><th>field</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
