"""Tabulates runs, such as those of a sweep. Runs that differ only in the seed share a row: mean ± standard deviation,
cost of the network, and difference to a baseline.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydist.compare.statistics import Difference, difference
from dydist.config import Config, ModelConfig
from dydist.config.data_sets import data_set
from dydist.config.reader import build, flatten, read_yaml, redacted_values, to_dict, unflatten
from dydist.config.rules import is_local
from dydist.data.description import FILE
from dydist.errors import UserError
from dydist.monitor.outputs.jsonlines import evaluations, read_lines
from dydist.named_run import is_own_run, run_folder
from dydist.text.redaction import hidden_names

if TYPE_CHECKING:
    from dydist.models.cost import Cost


@dataclass(frozen=True)
class Result:
    """The result of one run. `settings`: every given field by dotted name. Accuracies are fractions.

    `accuracies`: those of the weights, by split (validation or test) and step; `training_s`: seconds of all steps,
    without evaluations, saves and pauses; `finished`: whether the run is done (status.json); `parameters` and
    `multiply_adds` (of one image) are the network's.
    """

    run: str
    settings: dict[str, Any]
    finished: bool
    step: int
    steps_per_epoch: int
    accuracies: dict[str, dict[int, float]]
    images_per_s: float
    training_s: float
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed. Standard deviations are of a sample (n - 1), None for one run.

    `accuracies`: the last one of each run; `best`: mean of each run's highest. Times are medians. `difference` is None
    in the baseline's row.
    """

    label: str
    runs: int
    accuracy: float
    deviation: float | None
    best: float
    images_per_s: float
    training_s: float
    parameters: int
    multiply_adds: int
    accuracies: tuple[float, ...]
    difference: Difference | None = None


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders among `paths` and directly inside them. Raises UserError if there are none."""
    found: list[Path] = []
    for path in map(run_folder, paths):
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
    """A run's result; None if it was never evaluated."""
    lines = list(read_lines(run_dir / "metrics.jsonl"))
    accuracies = {
        split: {line["step"]: line["accuracy"] for line in found}
        for split, found in evaluations(line for line in lines if not line.get("ema")).items()
    }
    steps = [line for line in lines if line.get("kind") == "step"]
    speeds = [line["images_per_s"] for line in steps if line.get("images_per_s")]
    if not accuracies:
        return None
    # a field added after the run had its present default
    settings = flatten(to_dict(Config())) | flatten(redacted_values(read_yaml(run_dir / "config.yaml")))
    cost = cost_of(settings, _described(run_dir), own=is_own_run(run_dir))
    return Result(
        run=run_dir.resolve().name,
        settings=settings,
        finished=_is_done(run_dir),
        step=max(step for found in accuracies.values() for step in found),
        steps_per_epoch=_steps_per_epoch(run_dir),
        accuracies=accuracies,
        images_per_s=statistics.median(speeds) if speeds else 0.0,
        training_s=training_seconds(steps),
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
    )


def common_split(results: Sequence[Result]) -> str:
    """The split on which runs are compared by default: validation if every run has it, otherwise test."""
    return "validation" if all("validation" in result.accuracies for result in results) else "test"


def _steps_per_epoch(run_dir: Path) -> int:
    starts = [event for event in read_lines(run_dir / "events.jsonl") if event.get("kind") == "start"]
    return int(starts[-1].get("steps_per_epoch", 1)) if starts else 1


def _is_done(run_dir: Path) -> bool:
    try:
        return bool(json.loads((run_dir / "status.json").read_text(encoding="utf-8"))["state"] == "done")
    except (OSError, ValueError, KeyError):
        return False


def training_seconds(steps: Sequence[dict[str, Any]]) -> float:
    """Seconds of all steps, from the mean step times that each logged step has for the steps since the last one."""
    before, seconds = 0, 0.0
    for line in steps:
        seconds += (line["step"] - before) * (line.get("step_s") or 0.0)
        before = line["step"]
    return seconds


def cost_of(settings: dict[str, Any], described: tuple[int, int] | None = None, *, own: bool = False) -> Cost:
    """Parameters and multiply-adds of the network of a run's settings. `own`: whether a factory in them may be called.

    `described`: number of classes and side of the run's images; not needed for dydist's own data sets.
    """
    given = {name: value for name, value in settings.items() if name.startswith("model.")}
    model = unflatten(given).get("model", {})
    known = data_set(settings.get("data.name", "cifar10"))
    if known.classes is not None and known.side is not None:
        described = known.classes, known.side
    if described is None:
        raise UserError(
            f"compare: {FILE} of a run is missing or damaged, which tells how large its images are; copy the run "
            "folder again, or leave the run out"
        )
    if model.get("factory") is not None:
        return _own_cost(model, *described, build_it=own)
    return _cost(build(ModelConfig, model), *described)


def _described(run_dir: Path) -> tuple[int, int] | None:
    """Number of classes and side of the images of a run, from its folder."""
    try:
        found = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        return len(found["classes"]), int(found["side"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=64)
def _cost(model: ModelConfig, classes: int, side: int) -> Cost:
    import torch

    from dydist.models import build_model
    from dydist.models.cost import network_cost

    with torch.device("meta"):  # shapes only: no values are drawn or computed
        return network_cost(build_model(model, classes), side)


def _own_cost(model: dict[str, Any], classes: int, side: int, *, build_it: bool) -> Cost:
    """The same of a network of the user's own; zeros if it cannot or must not be built here."""
    import torch

    from dydist.models import build_model
    from dydist.models.cost import Cost, network_cost

    if not build_it or any(hidden_names(model.get("options", {}))):
        return Cost(0, 0)
    try:
        with torch.random.fork_rng(devices=[]):
            return network_cost(build_model(build(ModelConfig, model), classes, (3, side, side)), side)
    except UserError:
        return Cost(0, 0)


def with_differences(rows: Sequence[Row], baseline: str | None) -> tuple[list[Row], str]:
    """The rows with their differences to the baseline, and the baseline's label.

    The baseline is the only row whose label contains `baseline`; by default the static network, or the worst row if
    there is none. Raises UserError if no label, or more than one, contains the text.
    """
    fitting = [row for row in rows if (baseline or "model.kind=static") in row.label]
    if baseline is None:
        chosen = fitting[0] if len(fitting) == 1 else rows[-1]
    elif len(fitting) == 1:
        chosen = fitting[0]
    else:
        labels = "; ".join(row.label for row in rows)
        raise UserError(
            f"--baseline: {baseline!r} is in {len(fitting)} of the rows; give a text that is in only one of: {labels}"
        )
    return [
        row if row is chosen else replace(row, difference=difference(row.accuracies, chosen.accuracies))
        for row in rows
    ], chosen.label


def tabulate(results: Sequence[Result], split: str) -> list[Row]:
    """One row per setting, labelled by the fields in which the rows differ; best mean accuracy first.

    All of `results` have accuracies of `split`.
    """
    rows = [
        Row(
            label=label,
            runs=len(group),
            accuracy=statistics.fmean(last_accuracies(group, split)),
            deviation=statistics.stdev(last_accuracies(group, split)) if len(group) > 1 else None,
            best=statistics.fmean(max(result.accuracies[split].values()) for result in group),
            images_per_s=statistics.median(result.images_per_s for result in group),
            training_s=statistics.median(result.training_s for result in group),
            parameters=group[0].parameters,
            multiply_adds=group[0].multiply_adds,
            accuracies=last_accuracies(group, split),
        )
        for label, group in group_by_setting(results).items()
    ]
    return sorted(rows, key=lambda row: -row.accuracy)


def group_by_setting(results: Sequence[Result], without: str = "seed") -> dict[str, list[Result]]:
    """Runs that differ only in the seed, in local fields, and in the field `without`, by what differs from others."""
    given = {name for result in results for name in result.settings}
    names = sorted(name for name in given if name not in ("seed", without) and not is_local(name))
    different = [n for n in names if len({str(result.settings.get(n)) for result in results}) > 1]
    groups: dict[str, list[Result]] = {}
    for result in results:
        label = " ".join(f"{name}={result.settings.get(name)}" for name in different) or "all alike"
        groups.setdefault(label, []).append(result)
    return groups


def last_accuracies(results: Iterable[Result], split: str) -> tuple[float, ...]:
    """The last accuracy of each run on a split."""
    return tuple(result.accuracies[split][max(result.accuracies[split])] for result in results)


def to_csv(results: Sequence[Result], split: str) -> str:
    """CSV with one line per run: name, results on `split`, every setting."""
    names = sorted({name for result in results for name in result.settings})
    text = StringIO()
    writer = csv.writer(text)
    figures = ("images_per_s", "training_s", "parameters", "multiply_adds")
    writer.writerow(["run", "step", "split", "accuracy", "best_accuracy", *figures, *names])
    for result in results:
        (accuracy,), best = last_accuracies([result], split), max(result.accuracies[split].values())
        own = [result.run, result.step, split, accuracy, best, *(getattr(result, name) for name in figures)]
        writer.writerow([*own, *(result.settings.get(name) for name in names)])
    return text.getvalue()
