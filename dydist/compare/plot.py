"""The table of `dydist compare` as a figure: a dot per run, mean and confidence interval per row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import BytesIO

from dydist.compare.many import Row
from dydist.compare.statistics import confidence_half_width
from dydist.errors import UserError
from dydist.text import display


def draw(rows: Sequence[Row], baseline: str) -> bytes:
    """A PNG, 1600 pixels wide, best row on top. Raises UserError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure  # the object interface needs no display and has no global state
    except ImportError as error:
        raise UserError("--plot: needs matplotlib; install it with pip install 'dydist[report]'") from error
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        colour = "C1" if row.label == baseline else "C0"
        percent = [100 * accuracy for accuracy in row.accuracies]
        axes.plot(
            percent,
            [place] * len(percent),
            "o",
            color=colour,
            markersize=6,
            markeredgecolor="white",
            zorder=3,
        )
        reach = confidence_half_width(percent)
        axes.errorbar(
            statistics.fmean(percent), place, xerr=reach, fmt="|", color=colour, capsize=4, markersize=14
        )
    labels = [
        f"{display.figure(row.label)}\n{row.parameters / 1e6:.2f} M parameters, n = {row.runs}"
        for row in reversed(rows)
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set(xlabel="test accuracy %: runs, mean and 95 % confidence interval")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, dpi=200, format="png")
    return picture.getvalue()
