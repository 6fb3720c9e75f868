"""Reads run folders for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dydist.config.reader import flatten
from dydist.config.rules import is_local
from dydist.errors import UserError
from dydist.monitor.outputs.jsonlines import evaluations, read_lines
from dydist.named_run import run_folder
from dydist.text.strict import load_yaml


@dataclass(frozen=True)
class RunData:
    """The data of a run folder. `steps` and `evaluations` are lines of metrics.jsonl, `events` of events.jsonl.

    `evaluations` are of `split`: validation or test. `test_accuracy`: with a validation split that of the finished run.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    status: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    split: str = "test"
    test_accuracy: float | None = None
    confusion: dict[str, Any] | None = None

    @property
    def starts(self) -> list[dict[str, Any]]:
        """All starts: the first one and every resume."""
        return [event for event in self.events if event["kind"] == "start"]

    @property
    def accuracies(self) -> list[float]:
        """Accuracies by step, without those of averaged weights."""
        return [line["accuracy"] for line in self.evaluations if not line.get("ema")]

    @property
    def seconds(self) -> float:
        """Total running time of all starts."""
        total, began, last = 0.0, None, None
        for event in [*self.events, {"kind": "start", "time": None}]:
            if event["kind"] == "start":
                if began is not None and last is not None:
                    total += max(0.0, last - began)
                began = event["time"]
            last = event["time"] if event["time"] is not None else last
        if self.steps and self.starts and (end := self.steps[-1].get("time")):
            total = max(total, end - self.starts[-1]["time"])
        return total


@dataclass(frozen=True)
class Group:
    """Runs of one configuration (seeds may differ)."""

    label: str
    runs: list[RunData] = field(default_factory=list)


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises UserError if it is not one, or if nothing is logged yet."""
    folder = run_folder(folder)
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(
            f"{folder}: not a run folder (no metrics.jsonl); give the folder that run.dir and run.name made, "
            "such as runs/quickstart"
        )
    lines = list(read_lines(folder / "metrics.jsonl"))
    by_split = evaluations(lines)
    split = next(iter(by_split), "test")
    tested = [
        line["accuracy"] for line in by_split.get("test", []) if split != "test" and not line.get("ema")
    ]
    return RunData(
        name=folder.resolve().name,
        folder=folder,
        config=flatten(_load(folder / "config.yaml", load_yaml)),
        status=_load(folder / "status.json", json.loads),
        steps=[line for line in lines if line.get("kind") == "step"],
        evaluations=by_split.get(split, []),
        events=[event for event in read_lines(folder / "events.jsonl") if "time" in event],
        split=split,
        test_accuracy=tested[-1] if tested else None,
        confusion=_load(folder / "confusion.json", json.loads) or None,
    )


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Group runs that differ only in the seed and in local fields; a group is named by the fields that differ."""
    keys = [
        tuple(sorted((n, str(v)) for n, v in run.config.items() if n != "seed" and not is_local(n)))
        for run in runs
    ]
    distinct = list(dict.fromkeys(keys))
    varying = {
        n for n, _ in set().union(*map(set, distinct)) - set(distinct[0]).intersection(*map(set, distinct))
    }
    groups = []
    for key in distinct:
        members = [run for run, own in zip(runs, keys, strict=True) if own == key]
        label = ", ".join(f"{n}={v}" for n, v in key if n in varying)
        groups.append(Group(label or members[0].name, members))
    return groups


def _load(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The mapping in a file; empty where there is none."""
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
