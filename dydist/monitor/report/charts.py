"""The curves of the report: one per run, or mean and band for runs of one configuration."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dydist.monitor.report.runs import Group, RunData

POINTS = 500
"""Maximum points of a curve, since more are not visible. Neighbours are averaged."""
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A line. `colour`: index of a colour; `band`: low and high at each point; `faint`: one of several runs."""

    name: str
    points: Points
    colour: int
    dashed: bool = False
    faint: bool = False
    band: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """Curves over steps. `percent`: values are fractions."""

    key: str
    title: str
    curves: list[Curve]
    percent: bool = False
    log: bool = False


def charts(groups: Sequence[Group]) -> list[Chart]:
    """All charts that have data."""
    found = [
        Chart("accuracy", "Accuracy", _pair(groups, "accuracy"), percent=True),
        Chart("loss", "Loss", _pair(groups, "loss")),
        Chart("lr", "Learning rate", _curves(groups, _steps("lr"))),
        Chart("temperature", "Temperature", _curves(groups, _steps("temperature"))),
        Chart(
            "entropy", "Attention entropy, mean of the layers", _curves(groups, _steps("attention/entropy"))
        ),
        Chart("images_per_s", "Images per second", _curves(groups, _steps("images_per_s"))),
        Chart("wait", "Waiting for data, share of the step", _curves(groups, _wait), percent=True),
        Chart(
            "collective",
            "Waiting for other processes, seconds a step",
            _curves(groups, _collective),
        ),
        Chart("grad_norm", "Gradient norm", _curves(groups, _steps("grad_norm"))),
        Chart(
            "update",
            "Update, relative to the weights",
            _curves(groups, _steps("optim/update_ratio")),
            log=True,
        ),
    ]
    return [chart for chart in found if any(len(curve.points) > 1 for curve in chart.curves)]


def mean_and_band(curves: Sequence[Points]) -> tuple[Points, list[tuple[float, float, float]]]:
    """Mean ± one standard deviation (n - 1) at the steps common to all curves."""
    common = sorted(set.intersection(*({x for x, _ in points} for points in curves)))
    by_step = [dict(points) for points in curves]
    mean, band = [], []
    for x in common:
        values = [points[x] for points in by_step]
        middle, spread = statistics.fmean(values), statistics.stdev(values)
        mean.append((x, middle))
        band.append((x, middle - spread, middle + spread))
    return mean, band


def thin(points: Points, most: int = POINTS) -> Points:
    """At most `most` points, each the mean of neighbours. The last point is kept."""
    if len(points) <= most:
        return points
    every = -(-len(points) // most)
    blocks = [points[start : start + every] for start in range(0, len(points) - 1, every)]
    means = [(statistics.fmean(x for x, _ in b), statistics.fmean(y for _, y in b)) for b in blocks]
    return [*means, points[-1]]


def _pair(groups: Sequence[Group], key: str) -> list[Curve]:
    """Training as a dashed line, evaluations as a solid line."""
    split = " or ".join(sorted({run.split for group in groups for run in group.runs if run.evaluations}))
    measured = _curves(
        groups, lambda run: _points([e for e in run.evaluations if not e.get("ema")], key), split
    )
    ema = _curves(
        groups, lambda run: _points([e for e in run.evaluations if e.get("ema")], key), f"{split}, EMA"
    )
    return [*_curves(groups, _steps(key), "train", dashed=True), *measured, *ema]


def _curves(
    groups: Sequence[Group], read: Callable[[RunData], Points], what: str = "", *, dashed: bool = False
) -> list[Curve]:
    curves: list[Curve] = []
    for colour, group in enumerate(groups):
        label = " ".join(filter(None, [group.label if len(groups) > 1 else "", what]))
        points = [found for run in group.runs if (found := read(run))]
        if len(points) == 1:
            curves.append(Curve(label or group.label, thin(points[0]), colour, dashed))
        elif points:
            mean, band = mean_and_band(points)
            keep = {x for x, _ in mean[:: -(-len(mean) // POINTS) or 1]}
            curves += [Curve("", thin(one), colour, dashed, faint=True) for one in points]
            name = f"{f'{label}, ' if label else ''}mean ± s.d. of {len(points)} runs"
            picked = [p for p in mean if p[0] in keep]
            curves.append(Curve(name, picked, colour, dashed, band=[b for b in band if b[0] in keep]))
    return curves


def _steps(key: str) -> Callable[[RunData], Points]:
    return lambda run: _points(run.steps, key)


def _wait(run: RunData) -> Points:
    lines = [line for line in run.steps if line.get("step_s")]
    return [(line["step"], min(1.0, line["data_wait_s"] / line["step_s"])) for line in lines]


def _collective(run: RunData) -> Points:
    return _points([line for line in run.steps if "ranks/slowest" in line], "speed/collective_wait_s")


def _points(lines: Sequence[dict[str, Any]], key: str) -> Points:
    return [(line["step"], line[key]) for line in lines if _known(line.get(key))]


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
