"""Runs all runs of a check, and says whether they are equal."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dydist.check.difference import Record, first_difference
from dydist.check.runs import CheckOptions, EngineName, Run, Starter, plans, short, start_processes, start_run
from dydist.config import Config
from dydist.errors import FailedError

if TYPE_CHECKING:
    from dydist.data.splits import Splits

ROUNDING = {"fp32": (1e-4, 0.05), "bf16": (0.02, 0.2), "fp16": (0.02, 0.2)}
"""By precision: the largest relative difference of the first step's loss that rounding explains, and of later ones'."""
NOT_PROMISED = (
    "parallel.reduce=fast and DeepSpeed do not promise equal bits: on another number of processes, sums have another "
    "order, and more or fewer shards share a pass. Compared: each step's images, which must be equal, and losses"
)


@dataclass(frozen=True)
class Row:
    """One run: what it was, whether it is equal to the first, and how it differs or what was compared."""

    run: str
    equal: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """`rows`: the runs that were made. `doubts`: what makes the network's bits depend on the number of processes.

    `notes`: what else to know.
    """

    engine: EngineName
    precision: str
    rows: tuple[Row, ...]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the promise is kept in all runs."""
        return bool(self.rows) and all(row.equal for row in self.rows)


def check(
    arguments: Sequence[str],
    options: CheckOptions,
    engine: EngineName,
    *,
    progress: Callable[[str], None],
    starter: Starter = start_processes,
) -> Verdict:
    """Train shortly as `arguments` say, on this machine, and compare every run with the first one.

    With the exact engine every bit must be equal; with others the losses, up to rounding. Raises UserError if the
    configuration or the input is wrong, FailedError if the first run fails.
    """
    from dydist.config.reader import read_config
    from dydist.config.rules import check_config
    from dydist.run.assemble import prepare_environment

    given = read_config(arguments)
    flags = [*arguments, *short(given, engine, options)]
    config = read_config(flags)
    check_config(config, world_size=max(options.processes))
    prepare_environment(config)
    doubts, notes = _look_at(config, progress)
    exact = engine == "exact"
    if exact and doubts:
        return Verdict(engine, config.train.precision, (), doubts, notes)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dydist-check-") as folder:
        first: Run | None = None
        for number, plan in enumerate(plans(options)):
            began = time.monotonic()
            progress(f"{plan} …")
            found = start_run(flags, plan, Path(folder) / f"run{number}", recorded=exact, starter=starter)
            progress(f"{plan}: {time.monotonic() - began:.0f} s")
            if first is not None:
                equal, text = (_exact if exact else _near)(first, found, config)
                rows.append(Row(str(plan), equal, text))
                continue
            if found.failure is not None:
                more = "--images gives a shard more images, should batch norm need them"
                raise FailedError(f"check: the run on {plan} failed: {found.failure}; {more}")
            first = found
            rows.append(Row(str(plan), True, "what the others are compared with"))
    return Verdict(engine, config.train.precision, tuple(rows), doubts, notes)


def _look_at(config: Config, progress: Callable[[str], None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences on a network of the user's own: those of `models.examine`, and whether it mixes images."""
    from dydist.data.splits import open_splits

    splits: Splits = open_splits(config, progress)  # converts images, once for all runs
    if config.model.factory is None:
        return (), ()
    from dydist.check.coupling import coupled_module
    from dydist.models.examine import examine
    from dydist.run.session import build_model_for

    network = build_model_for(config, splits.train)
    shape = splits.train.images.shape[1:]
    who = f"model.factory: the network of {config.model.factory}"
    found = examine(network, len(splits.train.classes), shape, who)
    notes = list(found.by_batch)
    if not notes and (coupled := coupled_module(network, shape)) is not None:
        notes.append(
            f"{coupled} computes an image's output from the other images of its batch: a shard in training, but in "
            "dydist evaluate and predict whatever shares the batch"
        )
    return (*found.unkeyed, *found.changing), tuple(notes)


def _exact(first: Run, found: Run, config: Config) -> tuple[bool, str]:
    from dydist.compare.two import compare_runs

    reference, records = ([Record.read(file) for file in run.records] for run in (first, found))
    difference = first_difference(reference, records)
    if difference is not None:
        return False, f"DIFFERS, {difference}"
    if found.failure is not None:
        return False, f"FAILED: {found.failure}"
    result = compare_runs(first.folder, found.folder)
    if result.equal and result.steps_compared == config.train.max_steps:
        return True, "equal to the bit"
    if result.first_difference is not None:
        step, values = result.first_difference.step, ", ".join(result.first_difference.values)
        return False, f"DIFFERS, first in {values} at step {step}"
    if result.weights_equal is False:
        return False, f"DIFFERS, first in tensor {result.first_different_tensor} of the last checkpoint"
    return False, f"FAILED: {result.steps_compared} of {config.train.max_steps} steps were logged by both"


def _near(first: Run, found: Run, config: Config) -> tuple[bool, str]:
    from dydist.compare.two import step_lines

    if found.failure is not None:
        return False, f"FAILED: {found.failure}"
    a, b = step_lines(first.folder), step_lines(found.folder)
    for step in a:
        if step not in b:
            return False, f"FAILED: step {step} was not logged"
        if a[step]["data_hash"] != b[step]["data_hash"]:
            return False, f"DIFFERS, first in the images of step {step}"
    limits = ROUNDING[config.train.precision]
    apart = {step: abs(a[step]["loss"] / b[step]["loss"] - 1) for step in a}
    begin, worst = apart.pop(min(apart)), max(apart.values(), default=0.0)
    near = begin <= limits[0] and worst <= limits[1]
    text = (
        f"step 1's loss differs by {begin:.1g} of its value (rounding explains {limits[0]:g}), later ones by at "
        f"most {worst:.1g} ({limits[1]:g})"
    )
    return near, f"equal up to rounding: {text}" if near else f"DIFFERS: {text}"
