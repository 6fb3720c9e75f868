"""The same charts as PNG files, for slides and papers (matplotlib, the extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dydist.monitor.report.charts import Chart
from dydist.text import display


def write_pngs(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write one file per chart, 1600 pixels wide. Raises ImportError if matplotlib is missing."""
    from matplotlib.figure import Figure  # the object interface needs no display and has no global state
    from matplotlib.ticker import PercentFormatter

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for curve in chart.curves:
            if not curve.points:
                continue
            xs, ys = zip(*curve.points, strict=True)
            colour = f"C{curve.colour}"
            style = "--" if curve.dashed else "-"
            alpha, width = (0.3, 0.8) if curve.faint else (1.0, 1.8)
            marker = "o" if len(xs) == 1 else ""
            axes.plot(
                xs,
                ys,
                style,
                color=colour,
                alpha=alpha,
                lw=width,
                marker=marker,
                label=display.figure(curve.name) or None,
            )
            if curve.band:
                at, low, high = zip(*curve.band, strict=True)
                axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
        axes.set(title=display.figure(chart.title), xlabel="step")
        if chart.log:
            axes.set_yscale("log")
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if sum(bool(curve.name) for curve in chart.curves) > 1:
            axes.legend(frameon=False)
        written.append(folder / f"{chart.key}.png")
        figure.savefig(written[-1], dpi=200)
    return written
