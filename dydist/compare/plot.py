"""The table of `dydist compare` as a figure: a dot per run, mean and interval per row; or accuracy over a field."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from dydist.compare.many import Result, Row, group_by_setting
from dydist.compare.statistics import confidence_half_width
from dydist.errors import UserError
from dydist.text import display

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCH = "epoch"
"""The axis of `draw_lines` that is not a field."""


def draw(rows: Sequence[Row], baseline: str, split: str) -> bytes:
    """A PNG, 1600 pixels wide, best row on top. Raises UserError if matplotlib is missing."""
    figure, axes = _figure(1.4 + 0.45 * len(rows))
    for height, row in enumerate(reversed(rows)):
        colour = "C1" if row.label == baseline else "C0"
        percent = [100 * accuracy for accuracy in row.accuracies]
        axes.plot(
            percent,
            [height] * len(percent),
            "o",
            color=colour,
            markersize=6,
            markeredgecolor="white",
            zorder=3,
        )
        reach = confidence_half_width(percent)
        axes.errorbar(
            statistics.fmean(percent), height, xerr=reach, fmt="|", color=colour, capsize=4, markersize=14
        )
    labels = [
        f"{display.figure(row.label)}\n{row.parameters / 1e6:.2f} M parameters, n = {row.runs}"
        for row in reversed(rows)
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set(xlabel=f"{split} accuracy %: runs, mean and 95 % confidence interval")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def draw_lines(results: Sequence[Result], split: str, x: str) -> bytes:
    """A PNG, 1600 pixels wide: accuracy over a numeric field or, with `x` epoch, over finished epochs.

    A line connects the means of the runs that differ in nothing but `x` and the seed; a dot is a run. Raises UserError
    if matplotlib is missing, or a run has no number at `x`.
    """
    lines: dict[str, dict[float, list[float]]] = {}
    for label, group in group_by_setting(results, without=x).items():
        points = lines.setdefault(label, {})
        for result in group:
            for place, accuracy in _points(result, split, x):
                points.setdefault(place, []).append(100 * accuracy)
    figure, axes = _figure(5)
    for number, (label, points) in enumerate(sorted(lines.items())):
        places = sorted(points)
        runs = max(map(len, points.values()))
        middle = [statistics.fmean(points[place]) for place in places]
        colour, style = f"C{number % 10}", "-" if number < 10 else "--"
        axes.plot(places, middle, style, color=colour, label=f"{display.figure(label)} (n = {runs})")
        if x != EPOCH:
            dots = [(place, value) for place in places for value in points[place]]
            axes.plot(*zip(*dots, strict=True), ".", color=colour, alpha=0.6)
    if x != EPOCH and min(place for points in lines.values() for place in points) > 0:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=x, ylabel=f"{split} accuracy %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _png(figure)


def _points(result: Result, split: str, x: str) -> list[tuple[float, float]]:
    """The positions on the axis `x`, and the accuracies, of one run."""
    found = result.accuracies[split]
    if x == EPOCH:
        return [(step / result.steps_per_epoch, accuracy) for step, accuracy in sorted(found.items())]
    value = result.settings.get(x)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(
            f"--x: {x} of {result.run} is {value}, not a number; give a field such as optim.lr, or {EPOCH}"
        )
    return [(float(value), found[max(found)])]


def _figure(height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure  # the object interface needs no display and has no global state
    except ImportError as error:
        raise UserError("--plot: needs matplotlib; install it with pip install 'dydist[report]'") from error
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, dpi=200, format="png")
    return picture.getvalue()
