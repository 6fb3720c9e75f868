"""The cost of the training loop: the step's time minus forward, backward and optimizer."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from parts import StepParts

from dydist.cli.bench_output import JsonFlag, print_json, print_machine, print_table, start
from dydist.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    MonitorConfig,
    ParallelConfig,
    RunConfig,
    TrainConfig,
)
from dydist.config.reader import to_dict
from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.data.splits import open_splits
from dydist.engine import Callbacks, Loop, Progress, build_engine, start_world
from dydist.models.resnet import Stem
from dydist.monitor import build_monitors, build_terminal
from dydist.monitor.probes.probe import RunProbe
from dydist.run.session import build_model_for
from dydist.text.display import show

WARM_UP = 3
"""Steps of warm-up, in which memory is allocated and monitors write their first files."""


@dataclass(frozen=True)
class LoopCost:
    """Seconds of every step by part. `data wait`: waiting for the loader; `the rest`: neither that nor arithmetic."""

    parts: dict[str, list[float]]

    @property
    def own_share(self) -> float:
        """Share of all steps' time that is not forward, backward or optimiser, 0 to 1."""
        return sum(self._own()) / sum(self._totals())

    @property
    def own_shares(self) -> list[float]:
        """The same, per step."""
        return [own / total for own, total in zip(self._own(), self._totals(), strict=True)]

    def median_ms(self, part: str) -> float:
        """Median milliseconds of a part."""
        return 1000 * statistics.median(self.parts[part])

    def _own(self) -> list[float]:
        return [sum(pair) for pair in zip(self.parts["data wait"], self.parts["the rest"], strict=True)]

    def _totals(self) -> list[float]:
        return [sum(parts) for parts in zip(*self.parts.values(), strict=True)]


def loop_cost(*, stem: Stem, batch_size: int, width: float, steps: int, folder: Path) -> LoopCost:
    """Run `steps` steps of the loop with the loader, engine, probes and monitors of a run, writing to `folder`.

    DY-ResNet18 on synthetic images of 32 pixels in one process, 8 shards, every 20th step logged. Saves and
    evaluations are excluded; they have their own benchmarks.
    """
    config = Config(
        run=RunConfig(name="bench", dir=str(folder)),
        model=ModelConfig(stem=stem, width=width),
        data=DataConfig(name="synthetic", limit=batch_size * 8),
        train=TrainConfig(
            batch_size=batch_size, epochs=1000, max_steps=WARM_UP + steps + 1, eval_every_epochs=1000
        ),
        checkpoint=CheckpointConfig(every_steps=1_000_000),
        parallel=ParallelConfig(threads=torch.get_num_threads(), device="cpu"),
        monitor=MonitorConfig(quiet=True),
    )
    check_config(config)
    world = start_world(config)
    splits = open_splits(config)
    engine = build_engine(config, build_model_for(config, splits.train), world)
    run_dir = folder / config.run.name
    run_dir.mkdir(parents=True)
    monitor = build_monitors(
        config, run_dir, world_size=1, terminal=build_terminal(config), trained_with=to_dict(config)
    )
    probe = _Probe(config, engine.model, world, evaluated=splits.test, run_dir=run_dir, monitor=monitor)
    callbacks = Callbacks(monitor=monitor, probe=probe, save=lambda progress, final: None)
    loop = Loop(config, engine, world, splits, callbacks)
    parts = StepParts(engine.model)
    try:
        loop.run(Progress())
    finally:
        parts.close()
        probe.close()
    return _cost(parts, probe.waits)


def bench(
    *,
    stem: Stem = "cifar",
    batch_size: Count = 64,
    width: Positive = 1.0,
    steps: Count = 25,
    threads: Count | None = None,
    json_: JsonFlag = False,
) -> int:
    """The training loop's own cost, on the CPU: the time of a real run's steps, less forward, backward and optimiser.

    Example: python docs/benchmarks loop --stem imagenet

    Args:
        stem: cifar, strided or imagenet; images have 32 pixels.
        batch_size: Images of a step.
        width: The network's width (DY-ResNet18).
        steps: Steps, after three that do not count.
        threads: CPU threads; torch's default where not given.
        json_: Print the result as JSON.
    """
    start(threads)
    with tempfile.TemporaryDirectory() as folder:
        cost = loop_cost(stem=stem, batch_size=batch_size, width=width, steps=steps, folder=Path(folder))
    if json_:
        print_json({"own_share": cost.own_share, "seconds": cost.parts})
        return 0
    whole = sum(cost.median_ms(part) for part in cost.parts)
    rows = [
        [part, f"{cost.median_ms(part):.2f}", f"{cost.median_ms(part) / whole:.2%}"] for part in cost.parts
    ]
    print_table(["part of the loop's step", "median ms", "share"], rows)
    low, high = min(cost.own_shares), max(cost.own_shares)
    show(f"the loop's own cost: {cost.own_share:.2%} of all steps' time ({low:.2%}–{high:.2%} of a step)")
    print_machine()
    return 0


class _Probe(RunProbe):
    """The run's probe, which also records how long each step waited for its images."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waits: list[float] = []

    def after_step(self, step: int, images: Any, *, logged: bool, data_wait_s: float) -> None:
        self.waits.append(data_wait_s)
        super().after_step(step, images, logged=logged, data_wait_s=data_wait_s)


def _cost(parts: StepParts, waits: list[float]) -> LoopCost:
    """Steps are measured from one forward pass to the next, which includes the loop's work in between."""
    cost: dict[str, list[float]] = {
        name: [] for name in ("forward", "backward", "optimiser", "data wait", "the rest")
    }
    for number in range(WARM_UP, len(parts.steps) - 1):
        step = parts.steps[number]
        whole = parts.steps[number + 1].forward - step.forward
        wait = waits[number + 1]  # the wait for the next step's images is before its forward pass
        for name, seconds in step.arithmetic.items():
            cost[name].append(seconds)
        cost["data wait"].append(wait)
        cost["the rest"].append(whole - wait - sum(step.arithmetic.values()))
    return LoopCost(cost)
