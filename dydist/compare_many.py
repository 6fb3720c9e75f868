"""Runs of a sweep, or any runs, in one table: those that differ in the seed alone are one row, mean ± deviation."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from dydist.config_reader import read_yaml
from dydist.errors import UserError
from dydist.monitor.jsonlines import read_lines

IGNORED = ("seed", "run.", "checkpoint.", "monitor.", "parallel.", "data.root", "data.download")
"""Fields that do not make another row: where and how a run ran, and its seed."""


@dataclass(frozen=True)
class Result:
    """What one run came to. `settings`: every given field by dotted path. Accuracies are fractions."""

    run: str
    settings: dict[str, Any]
    step: int
    accuracy: float
    best: float
    images_per_s: float


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone. Deviations are of a sample (n - 1), None for one run."""

    label: str
    runs: int
    accuracy: float
    deviation: float | None
    best: float
    images_per_s: float


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Run folders: those given, and those directly inside the given ones. Raises UserError where there is none."""
    found: list[Path] = []
    for path in paths:
        inside = (
            [path]
            if (path / "metrics.jsonl").is_file()
            else sorted(p.parent for p in path.glob("*/metrics.jsonl"))
        )
        if not inside:
            raise UserError(
                f"{path}: holds no run (no metrics.jsonl); give run folders, or the folder of a sweep"
            )
        found += inside
    return found


def read_result(run_dir: Path) -> Result | None:
    """A run's figures; None where it was never evaluated."""
    lines = list(read_lines(run_dir / "metrics.jsonl"))
    tests = [line for line in lines if line.get("kind") == "evaluation" and not line.get("ema")]
    speeds = [
        line["images_per_s"] for line in lines if line.get("kind") == "step" and line.get("images_per_s")
    ]
    if not tests:
        return None
    sections = read_yaml(run_dir / "config.yaml")
    settings = {
        f"{section}.{name}" if isinstance(values, dict) else section: value
        for section, values in sections.items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    return Result(
        run=run_dir.name,
        settings=settings,
        step=tests[-1]["step"],
        accuracy=tests[-1]["accuracy"],
        best=max(line["accuracy"] for line in tests),
        images_per_s=statistics.median(speeds) if speeds else 0.0,
    )


def tabulate(results: Sequence[Result]) -> list[Row]:
    """One row for each setting, labelled by the fields in which the rows differ; best mean accuracy first."""
    names = sorted({name for result in results for name in result.settings if not name.startswith(IGNORED)})
    different = [n for n in names if len({str(result.settings.get(n)) for result in results}) > 1]
    groups: dict[str, list[Result]] = {}
    for result in results:
        label = " ".join(f"{name}={result.settings.get(name)}" for name in different) or "all alike"
        groups.setdefault(label, []).append(result)
    rows = [
        Row(
            label=label,
            runs=len(group),
            accuracy=statistics.fmean(result.accuracy for result in group),
            deviation=statistics.stdev(result.accuracy for result in group) if len(group) > 1 else None,
            best=statistics.fmean(result.best for result in group),
            images_per_s=statistics.median(result.images_per_s for result in group),
        )
        for label, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.accuracy)


def to_csv(results: Sequence[Result]) -> str:
    """A line a run: name, figures, every setting."""
    names = sorted({name for result in results for name in result.settings})
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["run", "step", "accuracy", "best_accuracy", "images_per_s", *names])
    for result in results:
        figures = [result.run, result.step, result.accuracy, result.best, result.images_per_s]
        writer.writerow([*figures, *(result.settings.get(name) for name in names)])
    return text.getvalue()
