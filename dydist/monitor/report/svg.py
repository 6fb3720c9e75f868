"""Charts as inline SVG, with colours from the page's style, which has a light and a dark mode."""

from __future__ import annotations

import html as html_module
import json
import math
from collections.abc import Sequence

from dydist.monitor.report.charts import Chart, Curve
from dydist.text.display import html, plain

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28
COLOURS = 8
"""Curves cycle through the style's --c0 … --c7."""


def chart_svg(chart: Chart) -> str:
    """A chart: axes, bands, curves, a legend, and the data for the page's tooltip."""
    curves = [curve for curve in chart.curves if curve.points]
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for c in curves for y in [*(y for _, y in c.points), *(v for _, *b in c.band for v in b)]]
    log = chart.log and min(ys) > 0
    x_axis = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_axis = Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=log)
    parts = [*_grid(x_axis, y_axis, percent=chart.percent)]
    parts += [_band(curve, x_axis, y_axis) for curve in curves if curve.band]
    parts += [_line(curve, x_axis, y_axis) for curve in curves]
    data = {
        "x": [x_axis.low, x_axis.high, LEFT, WIDTH - RIGHT],
        "percent": chart.percent,
        "curves": [
            {"name": plain(curve.name), "points": [[_short(x), _short(y)] for x, y in curve.points]}
            for curve in curves
            if curve.name
        ],
    }
    payload = html_module.escape(json.dumps(data))
    return (
        f'<figure class="chart" id="chart-{chart.key}"><figcaption>{html(chart.title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html(chart.title)}" '
        f'data-curves="{payload}">{"".join(parts)}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
        f"{legend(curves)}<output></output></figure>"
    )


def legend(curves: Sequence[Curve]) -> str:
    """The names of the curves and their colours; empty for a single curve."""
    named = [curve for curve in curves if curve.name]
    if len(named) < 2 and not any(curve.band for curve in named):
        return ""
    items = "".join(f'<li><i class="{_kind(curve)}"></i>{html(curve.name)}</li>' for curve in named)
    return f'<ul class="legend">{items}</ul>'


class Axis:
    """Maps values low … high to pixels; `ticks` are round numbers."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, log: bool = False) -> None:
        if low == high:
            low, high = (
                (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
            )
        self.low, self.high, self.begin, self.end, self.log = low, high, begin, end, log

    def __call__(self, value: float) -> float:
        low, high, value = (
            (map(math.log10, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        )
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the axis."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            if len(powers) >= 2:
                return [10.0**power for power in powers]
        raw = (self.high - self.low) / count
        size = 10 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [round(number * step, 12) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def number(value: float, *, percent: bool = False) -> str:
    """A tick's label."""
    if percent:
        return f"{100 * value:.4g}%"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _grid(x_axis: Axis, y_axis: Axis, *, percent: bool) -> list[str]:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        label = number(tick, percent=percent)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
    parts += [
        f'<text class="x" x="{x_axis(tick):.1f}" y="{HEIGHT - 8}">{number(tick)}</text>'
        for tick in x_axis.ticks(6)
    ]
    return parts


def _kind(curve: Curve) -> str:
    return f"k{curve.colour % COLOURS}{' dashed' if curve.dashed else ''}"


def _line(curve: Curve, x_axis: Axis, y_axis: Axis) -> str:
    points = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in curve.points)
    kind = (
        f"curve k{curve.colour % COLOURS}{' dashed' if curve.dashed else ''}{' faint' if curve.faint else ''}"
    )
    if len(curve.points) == 1:
        x, y = points.split(",")
        return f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>'
    return f'<polyline class="{kind}" points="{points}"/>'


def _band(curve: Curve, x_axis: Axis, y_axis: Axis) -> str:
    low = max(y_axis.low, 1e-300) if y_axis.log else -math.inf
    upper = [f"{x_axis(x):.1f},{y_axis(high):.1f}" for x, _, high in curve.band]
    lower = [f"{x_axis(x):.1f},{y_axis(max(least, low)):.1f}" for x, least, _ in reversed(curve.band)]
    return f'<polygon class="band k{curve.colour % COLOURS}" points="{" ".join(upper + lower)}"/>'


def _short(value: float) -> float:
    return float(f"{value:.5g}")
