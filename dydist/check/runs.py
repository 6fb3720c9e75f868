"""The short runs of a check, each with its processes on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dydist.check.start import record_file
from dydist.config import Config
from dydist.config.rules import names_source
from dydist.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USAGE, UserError
from dydist.process.local import ProcessError, run_processes

EngineName = Literal["exact", "ddp", "deepspeed"]
Starter = Callable[[Sequence[str], int, int], None]
"""(arguments of `dydist.check.start`, number of processes, expected exit code). Raises ProcessError."""
LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    "SLURM_",
)
"""How variables begin that tell a process of a launcher or a job. Those of a check have none, or their own."""
JOB = ("DYDIST_EXIT_DIR", "DYDIST_JOB", "DYDIST_UNTIL")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What is run: `steps` of `images` a shard on each number of `processes`."""

    processes: tuple[int, ...] = (1, 2, 3)
    steps: int = 6
    images: int = 4
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Part:
    """One start of a run: its number of processes, and the finished steps after which it is asked to stop."""

    processes: int
    stop_after: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run: its starts."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        first, *rest = self.parts
        if not rest:
            return _processes(first.processes)
        return f"{_processes(first.processes)}, stopped after step {first.stop_after}, resumed on {rest[0].processes}"


def plans(options: CheckOptions) -> list[Plan]:
    """All runs: one for each number of processes; then one that is stopped on the second, and resumed on the first."""
    first, *others = options.processes
    stopped = Part(others[0] if others else first, options.steps // 2)
    return [*(Plan((Part(size),)) for size in options.processes), Plan((stopped, Part(first)))]


def short(config: Config, engine: EngineName, options: CheckOptions) -> list[str]:
    """Flags that make a short run of `config`: few images, two epochs or more, and a learning rate for that batch.

    If the recipe trains on the last, smaller batch of an epoch, there is one, with two images of each shard or more.
    """
    batch = options.images * config.parallel.shards
    steps_per_epoch = max(1, options.steps // 2)
    limit = batch * steps_per_epoch
    if not config.data.drop_last and steps_per_epoch > 1:
        limit -= min(batch // 2, batch - 2 * config.parallel.shards)
    values: dict[str, Any] = {
        "data.limit": limit, "data.validation": "null",
        "train.batch_size": batch, "train.max_steps": options.steps,
        "train.epochs": max(config.train.epochs, options.steps), "train.eval_every_epochs": 10**6,
        "train.profile": "null",
        "optim.lr": config.optim.lr * min(1.0, batch / config.train.batch_size),
        "parallel.engine": "deepspeed" if engine == "deepspeed" else "ddp",
        "parallel.reduce": "exact" if engine == "exact" else "fast",
        "parallel.device": options.device,
        "checkpoint.url": "null", "checkpoint.every_steps": options.steps, "checkpoint.every_minutes": "null",
        "checkpoint.resume": config.checkpoint.resume if names_source(config.checkpoint.resume) else "auto",
        "monitor.logdir": "null", "monitor.prometheus_file": "null", "monitor.every_steps": 1,
        "monitor.histograms_every_steps": 0, "monitor.trackers": "[]", "monitor.quiet": "true",
    }  # fmt: skip
    if engine != "deepspeed":
        values |= {"parallel.zero": 0, "parallel.offload": "none"}
    return [word for path, value in values.items() for word in (f"--{path}", str(value))]


@dataclass(frozen=True)
class Run:
    """A run in `folder`, and how it failed, or None. `records`: of its processes, where they were recorded."""

    folder: Path
    records: tuple[Path, ...]
    failure: str | None = None


def start_run(arguments: Sequence[str], plan: Plan, folder: Path, *, recorded: bool, starter: Starter) -> Run:
    """Train in `folder`, one start after the other. Raises UserError if the configuration or the input is wrong."""
    flags = [*arguments, "--run.dir", str(folder.parent), "--run.name", folder.name]
    records: list[Path] = []
    failure = None
    for number, part in enumerate(plan.parts):
        record = folder.parent / f"{folder.name}-start{number}"
        how = [str(record) if recorded else "-", str(part.stop_after or 0)]
        try:
            starter([*how, *flags], part.processes, EXIT_DONE if part.stop_after is None else EXIT_STOPPED)
        except ProcessError as error:
            if error.code == EXIT_USAGE and "dydist: " in error.said:
                raise UserError(error.said.rpartition("dydist: ")[2].strip()) from error
            failure = _why(error)
        records += [file for rank in range(part.processes) if (file := record_file(record, rank)).exists()]
        if failure is not None:
            break
    return Run(folder, tuple(records), failure)


def start_processes(arguments: Sequence[str], processes: int, expected: int) -> None:
    """Start new interpreters, whose hash seeds and addresses differ, as those of any run do. See `Starter`."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(LAUNCHERS) and name not in JOB
    }
    run_processes(["-m", "dydist.check.start", *arguments], processes, expected=expected, base=environment)


def _why(error: ProcessError) -> str:
    """What a failed process said last, without the program's name; how it ended, if that was no error of its own."""
    said = error.said.strip().rpartition("\n")[2].removeprefix("dydist: ")
    if error.code is None:
        return str(error)
    if error.code > 0 and said:
        return said
    names = {-number: f" ({number.name})" for number in signal.Signals}
    return f"ended with {error.code}{names.get(error.code, '')}" + (f": {said}" if said else "")


def _processes(size: int) -> str:
    return "1 process" if size == 1 else f"{size} processes"
