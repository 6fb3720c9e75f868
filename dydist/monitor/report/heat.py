"""Heat maps: attention over time, one strip per layer, and the confusion matrix."""

from __future__ import annotations

import base64
import math

import numpy as np

from dydist.monitor.outputs.images import colours, png
from dydist.monitor.report.runs import RunData
from dydist.text.display import html

COLUMNS = 400


def attention_section(run: RunData) -> str:
    """Entropy and kernel shares of every dynamic layer; empty for a run without attention."""
    lines = [line for line in run.steps if line.get("attention")]
    if not lines:
        return ""
    lines = lines[:: -(-len(lines) // COLUMNS)]
    last = lines[-1]["attention"]
    rows = []
    for name, newest in last.items():
        seen = [line["attention"].get(name) for line in lines]
        entropy = [_or_nan(layer and layer["entropy"]) for layer in seen]
        shares = [
            [_or_nan(layer and layer["share"][k]) for layer in seen] for k in range(len(newest["share"]))
        ]
        dead = f'<b class="bad">{html(newest["dead"])} dead</b>' if newest["dead"] else ""
        rows.append(
            f"<tr><th>{html(name)}</th><td>{_strip(np.array([entropy]), 'entropy')}</td>"
            f"<td>{_strip(np.array(shares) * len(shares) / 2, 'shares')}</td>"
            f"<td class=n>{newest['entropy']:.3f} {dead}</td></tr>"
        )
    first, end = lines[0]["step"], lines[-1]["step"]
    return (
        f"<p>Each strip runs from step {first:,} to {end:,}. Entropy: 0 is one kernel alone, 1 all alike. "
        "Shares: a row a kernel, its mean weight over the images of a step; the colour's middle is an equal "
        "share, its end twice that or more.</p>"
        '<div class="scale"><span>0</span><i></i><span>1</span></div>'
        '<div class="wide"><table class="heat"><thead><tr><th>layer</th><th>entropy</th><th>shares of the kernels</th>'
        f"<th class=n>entropy at the end</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def confusion_section(run: RunData) -> str:
    """The newest evaluation's confusion matrix, with the accuracy of each class."""
    found = run.confusion
    if not found:
        return ""
    classes, counts = found["classes"], found["counts"]
    order = range(len(classes))
    right = sorted(order, key=lambda c: counts[c][c] / max(1, sum(counts[c])))
    if len(classes) > 20:
        worst = ", ".join(f"{html(classes[c])} {_share(counts, c):.0%}" for c in right[:10])
        return (
            f"<p>Top-5 accuracy {found['top5']:.2%}. The ten classes with the lowest accuracy: {worst}.</p>"
        )
    head = "".join(f"<th>{html(name)}</th>" for name in classes)
    rows = "".join(
        f"<tr><th>{html(classes[true])}</th>"
        + "".join(
            f'<td style="--s:{counts[true][said] / max(1, sum(counts[true])):.3f}"'
            f' class="{"hit" if true == said else "miss"}">{counts[true][said] or ""}</td>'
            for said in order
        )
        + f"<td class=n>{_share(counts, true):.1%}</td></tr>"
        for true in order
    )
    return (
        f"<p>Step {found['step']:,}; a row is what an image shows, a column what it was taken for. "
        f"Top-5 accuracy {found['top5']:.2%}.</p>"
        f'<div class="wide"><table class="confusion"><thead><tr><th></th>{head}<th class=n>accuracy</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _share(counts: list[list[int]], row: int) -> float:
    return counts[row][row] / max(1, sum(counts[row]))


def _strip(values: np.ndarray, what: str) -> str:
    data = base64.b64encode(png(colours(values))).decode()
    return f'<img class="{what}" alt="{what} over time" src="data:image/png;base64,{data}">'


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
