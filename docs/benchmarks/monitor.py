"""The cost of monitoring: the same training with all monitors on and all off, interleaved."""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from dydist.cli.bench_output import JsonFlag
from dydist.config import Config, DataConfig, ModelConfig, MonitorConfig, TrainConfig
from dydist.config.reader import to_dict
from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.data import open_dataset
from dydist.data.splits import Splits, order_of
from dydist.engine import Callbacks, Loop, Progress, World, build_engine, start_world
from dydist.engine.protocol import Engine
from dydist.errors import UserError
from dydist.models import build_model
from dydist.monitor import NullMonitor, NullProbe, build_monitors, build_terminal
from dydist.monitor.probes.probe import RunProbe
from dydist.records import Monitor, Probe, RunSummary
from dydist.text.display import show


@dataclass(frozen=True)
class MonitorCost:
    """Ratios of the time per step, on / off, for pairs of neighbouring blocks of steps.

    `wall`: wall-clock time; `cpu`: processor time of all threads of this process, which other programs disturb far
    less. `step_s`: median seconds per step with everything off.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    step_s: float


def median_interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median and its 95 % bootstrap interval (fixed seed)."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return statistics.median(values), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def measure_monitor_cost(
    config: Config, *, steps: int, pairs: int, tell: Callable[[str], None]
) -> MonitorCost:
    """Train on `config.data` in blocks, off-on and on-off alternately, so that drift of the machine favours neither.

    On: metrics.jsonl, status.json, TensorBoard, the progress bar (not displayed), alerts, Prometheus, and the probe
    with all statistics. Off: none of these. The first block of each kind is warm-up. The first `monitor.every_steps`
    steps of each block are excluded too, since one-time work at a start (the graph, a grid of images) would dominate
    such short blocks.
    """
    settling = config.monitor.every_steps
    config = replace(config, train=replace(config.train, epochs=10**6, max_steps=None, eval_every_epochs=1e9))
    world = start_world(config)
    train_set = open_dataset(config.data, "train")
    splits = Splits(train_set, train_set, order_of(config, len(train_set)))
    engine = build_engine(config, build_model(config.model, len(train_set.classes)), world)
    progress = Progress()

    def block(on: bool, folder: Path) -> tuple[float, float]:
        """Seconds per step in a block after its `settling` steps: wall-clock and processor time."""
        nonlocal progress
        begin, stamps, used = progress.step + settling, [], []

        def stamp(step: int) -> None:
            if step <= begin:
                return
            if world.device.type == "cuda" and step in (begin + 1, begin + steps):
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())
            used.append(time.process_time())

        with _everything(config, engine, world, folder, on=on) as (monitor, probe):
            callbacks = Callbacks(
                monitor=monitor,
                probe=probe,
                save=lambda _progress, *, final: None,
                stop_requested=lambda: len(stamps) >= steps - 1,
                heartbeat=stamp,
            )
            loop = Loop(config, engine, world, splits, callbacks)
            progress, _ = loop.run(progress)
        count = len(stamps) - 1
        return (stamps[-1] - stamps[0]) / count, (used[-1] - used[0]) / count

    wall, cpu, times = [], [], []
    with tempfile.TemporaryDirectory(prefix="dydist-bench-") as name:
        for pair in range(-1, pairs):
            first = pair % 2 == 0
            a, b = block(first, Path(name)), block(not first, Path(name))
            on, off = (a, b) if first else (b, a)
            if pair >= 0:
                wall.append(on[0] / off[0])
                cpu.append(on[1] / off[1])
                times.append(off[0])
                tell(
                    f"pair {pair + 1} of {pairs}: {1000 * off[0]:.2f} ms a step off, "
                    f"{wall[-1] - 1:+.2%} on (processor time {cpu[-1] - 1:+.2%})"
                )
    world.close()
    return MonitorCost(wall=tuple(wall), cpu=tuple(cpu), step_s=statistics.median(times))


def bench(
    *,
    steps: Count = 100,
    pairs: Count = 10,
    width: Positive = 0.25,
    batch_size: Count = 128,
    histograms_every: Count = 500,
    json_: JsonFlag = False,
) -> int:
    """The cost of monitoring: time per step with all monitors on over time with all off.

    Blocks of steps with and without take turns in one process, on synthetic images; the median over pairs of
    neighbouring blocks is given with its 95 % interval. Aims: at most 1.01; 1.02 with --histograms-every 100.

    Example: python docs/benchmarks monitor --steps 100 --pairs 10 --histograms-every 100

    Args:
        steps: Steps of a block.
        pairs: Pairs of blocks.
        width: The network's width (DY-ResNet18, strided stem).
        batch_size: Images a step.
        histograms_every: Steps between histograms; 0: none.
        json_: Print the result as JSON.
    """
    if steps < 3 or pairs < 2:
        raise UserError(f"monitor: --steps {steps} --pairs {pairs} is too few; use at least 3 and 2")
    config = Config(
        model=ModelConfig(width=width, stem="strided"),
        data=DataConfig(name="synthetic", limit=20 * batch_size),
        train=TrainConfig(batch_size=batch_size),
        monitor=MonitorConfig(histograms_every_steps=histograms_every),
    )
    check_config(config)
    cost = measure_monitor_cost(
        config, steps=steps, pairs=pairs, tell=lambda line: show(line, file=sys.stderr)
    )
    if json_:
        result = {"wall": cost.wall, "cpu": cost.cpu, "step_s": cost.step_s, "steps": steps}
        print(json.dumps({**result, "histograms_every_steps": histograms_every}))
        return 0
    show(
        f"every monitor on over every one off, {pairs} pairs of {steps} steps of {1000 * cost.step_s:.1f} ms:"
    )
    for what, ratios in (("time a step", cost.wall), ("processor time a step", cost.cpu)):
        middle, low, high = median_interval(ratios)
        show(f"  {what}: {middle:.4f} (median; 95 % interval {low:.4f} to {high:.4f})")
    return 0


@contextmanager
def _everything(
    config: Config, engine: Engine, world: World, folder: Path, *, on: bool
) -> Iterator[tuple[Monitor, Probe]]:
    """All monitors and the probe, or none."""
    if not on:
        yield NullMonitor(), NullProbe()
        return
    config = replace(config, monitor=replace(config.monitor, prometheus_file=str(folder / "run.prom")))
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=100)
        monitor = build_monitors(
            config,
            folder,
            world_size=world.size,
            terminal=build_terminal(config, console),
            trained_with=to_dict(config),
        )
        probe = RunProbe(
            config,
            engine.model,
            world,
            evaluated=open_dataset(config.data, "test"),
            run_dir=folder,
            monitor=monitor,
        )
        try:
            yield monitor, probe
        finally:
            probe.close()
            monitor.close(
                RunSummary(
                    state="stopped",
                    step=0,
                    total_steps=0,
                    best_accuracy=None,
                    last_accuracy=None,
                    seconds=0.0,
                    places={},
                )
            )
