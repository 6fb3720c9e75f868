"""Two processes against one with the same global batch on this machine, and the losses in scaling.

`python docs/benchmarks scaling` runs this file as the two processes. Alternatives are interleaved, so that a slow
machine affects all.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dydist.bench.pairs import Ratio, describe_machine
from dydist.cli.bench_output import JsonFlag, print_json, print_machine, print_table, start
from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.models.resnet import Stem
from dydist.process.end import run_to_end
from dydist.process.local import run_processes
from dydist.text.display import show

WAYS = ("one", "half", "two")
"""One process with the full batch, one with half of it while the other core is idle, two with half each."""


@dataclass(frozen=True)
class ScalingCost:
    """Seconds, one value per round. For `two`, those of the slower process."""

    step: dict[str, list[float]]
    """A whole step, by alternative."""
    optimiser: list[float]
    """For `one`: the optimizer step, which every process repeats."""
    busy: list[list[float]]
    """For `two`, by process: forward and backward."""
    half_busy: list[float]
    """For `half`: forward and backward."""
    wait: list[float]
    """For `two`: the minimum wait for gradients, that of the slower process, which waits only for the all-reduce."""
    all_reduce_s: float
    """An all-reduce of all gradients between the two processes, without other work."""
    latency_s: float
    """An all-reduce of four bytes."""
    gradient_bytes: int

    @property
    def speed_up(self) -> Ratio:
        """Images per second of two processes over one; 2 is ideal."""
        return Ratio.of(self.step["one"], self.step["two"])

    @property
    def jitter(self) -> float:
        """Standard deviation over mean of forward and backward of one process, with the other core idle."""
        return statistics.stdev(self.half_busy) / statistics.fmean(self.half_busy)

    def losses_ms(self) -> dict[str, float]:
        """The difference between a step of two processes and half a step of one, by cause: median milliseconds.

        They add up to the total loss; one may be negative if it is a gain (a smaller batch fits caches better).
        """

        def median(values: Sequence[float]) -> float:
            return 1000 * statistics.median(values)

        one, two = median(self.step["one"]), median(self.step["two"])
        repeated = median(self.optimiser) / 2
        half = median(self.step["half"]) - one / 2 - repeated
        mean = [statistics.fmean(pair) for pair in zip(*self.busy, strict=True)]
        slower = [max(pair) for pair in zip(*self.busy, strict=True)]
        shared = median(mean) - median(self.half_busy)
        straggling = median(slower) - median(mean)
        waiting = median(self.wait)
        rest = two - one / 2 - repeated - half - shared - straggling - waiting
        return {
            "the optimiser's step, which every process repeats": repeated,
            "costs that do not shrink with the batch": half,
            "two processes share the machine (memory, caches, clock rate)": shared,
            "the slower process (straggler)": straggling,
            "waiting for gradients (all-reduce)": waiting,
            "the rest (batch statistics, hooks)": rest,
        }

    @property
    def limit(self) -> str:
        """The name of the largest loss."""
        losses = self.losses_ms()
        return max(losses, key=lambda name: losses[name])


def measure(*, stem: Stem, batch_size: int, width: float, pairs: int) -> ScalingCost:
    """Measure `pairs` rounds with two processes of one thread each, after one round of warm-up."""
    arguments = [stem, str(batch_size), str(width), str(pairs)]
    printed = run_processes([__file__, *arguments], 2)
    return ScalingCost(**json.loads(printed.strip().splitlines()[-1]))


def bench(
    *,
    stem: Stem = "cifar",
    batch_size: Count = 64,
    width: Positive = 1.0,
    pairs: Count = 5,
    images_per_gpu: Count = 64,
    json_: JsonFlag = False,
) -> int:
    """Two processes over one at the same global batch, what is lost on the way, and 1,024 GPUs on paper.

    Two processes with a thread each take turns at: one alone with the whole batch, one alone with half of it, both
    with half each. The ratio is the median over rounds, with the least and the greatest; 2 is all there is to gain.
    The paper model (docs/notes/performance.md) takes the jitter measured here and figures quoted with their sources.

    Example: python docs/benchmarks scaling --stem strided --width 0.5

    Args:
        stem: cifar, strided or imagenet.
        batch_size: Images of the global batch.
        width: The network's width (DY-ResNet18).
        pairs: Rounds, after one that does not count.
        images_per_gpu: Images on each GPU, on paper.
        json_: Print the result as JSON.
    """
    start(1)
    from scaling_model import predict, step_multiply_adds

    cost = measure(stem=stem, batch_size=batch_size, width=width, pairs=pairs)
    predictions = [
        predict(
            gpus,
            images_per_gpu=images_per_gpu,
            multiply_adds=step_multiply_adds(stem=stem, width=width),
            gradient_bytes=cost.gradient_bytes,
            jitter=cost.jitter,
        )
        for gpus in (1, 8, 64, 256, 1024)
    ]
    losses = cost.losses_ms()
    if json_:
        print_json(
            {
                "machine": describe_machine(),
                "measured": asdict(cost),
                "speed_up": asdict(cost.speed_up),
                "lost_ms": losses,
                "limit": cost.limit,
                "jitter": cost.jitter,
                "paper": [
                    {**asdict(one), "step_ms": one.step_ms, "efficiency": one.efficiency}
                    for one in predictions
                ],
            }
        )
        return 0
    names = {"one": "one, whole batch", "half": "one, half the batch", "two": "two, half each"}
    rows = [[names[way], f"{1000 * statistics.median(cost.step[way]):.0f}"] for way in WAYS]
    print_table(["processes", "ms a step"], rows)
    show(f"images/s, two processes over one: {cost.speed_up}")
    print_table(["lost against half of one's step", "ms"], [[n, f"{ms:.1f}"] for n, ms in losses.items()])
    show(f"what limits it: {cost.limit}")
    rate = cost.gradient_bytes / cost.all_reduce_s / 1e9
    show(
        f"all-reduce here: {1e6 * cost.latency_s:.0f} µs for 4 bytes, {1000 * cost.all_reduce_s:.0f} ms for "
        f"{cost.gradient_bytes / 1e6:.0f} MB of gradients ({rate:.2f} GB/s); jitter of a process {cost.jitter:.1%}"
    )
    print_table(
        [
            "A100s on paper",
            "compute ms",
            "all-reduce ms",
            "of it hidden",
            "stragglers ms",
            "efficiency",
            "limit",
        ],
        [
            [
                f"{one.gpus:,}",
                *(
                    f"{ms:.2f}"
                    for ms in (one.compute_ms, one.all_reduce_ms, one.overlapped_ms, one.straggler_ms)
                ),
                f"{one.efficiency:.0%}",
                one.limit,
            ]
            for one in predictions
        ],
    )
    print_machine()
    return 0


def main(arguments: Sequence[str]) -> None:
    """One of the two processes."""
    stem, batch_size, width, pairs = arguments[0], int(arguments[1]), float(arguments[2]), int(arguments[3])
    import torch
    import torch.distributed as dist
    from parts import StepParts

    from dydist.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainConfig
    from dydist.data import open_dataset
    from dydist.engine import Votes, build_engine, start_world
    from dydist.run.session import build_model_for

    config = Config(
        model=ModelConfig(width=width, stem=stem),  # type: ignore[arg-type]
        data=DataConfig(name="synthetic", limit=batch_size),
        train=TrainConfig(batch_size=batch_size),
        parallel=ParallelConfig(threads=1, device="cpu"),
    )
    check_config(config, world_size=2)
    world = start_world(config)
    dataset = open_dataset(config.data, "train")
    shards = config.parallel.shards
    together = build_engine(config, build_model_for(config, dataset), world)
    alone = None
    if world.rank == 0:
        alone = build_engine(config, build_model_for(config, dataset), replace(world, size=1))
    engines: dict[str, Any] = {"one": alone, "half": alone, "two": together}
    batches = {
        "one": _batch(range(shards), batch_size, batch_size),
        "half": _batch(range(shards // 2), batch_size // 2, batch_size),
        "two": _batch(
            range(world.rank * shards // 2, (world.rank + 1) * shards // 2), batch_size // 2, batch_size
        ),
    }
    rounds: dict[str, list[Any]] = {way: [] for way in WAYS}

    def turn(way: str, keep: bool) -> None:
        dist.barrier()  # the other process waits here while one works
        if engines[way] is None:
            return
        parts = StepParts(engines[way].model)
        began = time.perf_counter()
        engines[way].train_step(batches[way], lr=0.01, temperature=10.0, votes=Votes())()
        took = time.perf_counter() - began
        parts.close()
        (step,) = parts.steps
        if keep:
            rounds[way].append(
                {"step": took, "wait": step.collective_wait, "optimiser": step.arithmetic["optimiser"]}
                | {"busy": step.arithmetic["forward"] + step.arithmetic["backward"]}
            )

    for number in range(pairs + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            turn(way, keep=number > 0)
    size = sum(parameter.numel() for parameter in together.model.parameters())
    latency = _median_s(lambda: dist.all_reduce(torch.zeros(1)), 50)
    flat = torch.zeros(size)
    all_reduce = _median_s(lambda: dist.all_reduce(flat), 5)
    twos = world.gather(rounds["two"])
    if world.rank == 0:
        cost = ScalingCost(
            step={
                "one": [one["step"] for one in rounds["one"]],
                "half": [one["step"] for one in rounds["half"]],
                "two": [max(one["step"] for one in pair) for pair in zip(*twos, strict=True)],
            },
            optimiser=[one["optimiser"] for one in rounds["one"]],
            busy=[[one["busy"] for one in process] for process in twos],
            half_busy=[one["busy"] for one in rounds["half"]],
            wait=[min(one["wait"] for one in pair) for pair in zip(*twos, strict=True)],
            all_reduce_s=all_reduce,
            latency_s=latency,
            gradient_bytes=4 * size,
        )
        print(json.dumps(asdict(cost)))
    world.close()


def _batch(shards: range, images: int, count: int) -> Any:
    """A batch of `images` random images for `shards`, of a global batch of `count`."""
    import torch

    from dydist.data.loader import ShardGroup, StepBatch

    generator = torch.Generator().manual_seed(shards.start)
    pixels = torch.randn(images, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (images,), generator=generator)
    return StepBatch(0, count, (ShardGroup(tuple(shards), pixels, labels, None, 0),))


def _median_s(collective: Callable[[], Any], times: int) -> float:
    """Median seconds of a collective after a barrier."""
    import torch.distributed as dist

    seconds = []
    for _ in range(times):
        dist.barrier()
        began = time.perf_counter()
        collective()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))
