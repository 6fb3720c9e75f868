"""The cost of exactness: a step with reduce=exact over one with reduce=fast, interleaved in one run.

`python docs/benchmarks exact` runs this file as the processes of the measurement; process 0 prints JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from dydist.cli.bench_output import JsonFlag
from dydist.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainConfig
from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.models.resnet import Stem
from dydist.process.end import run_to_end
from dydist.process.local import run_processes
from dydist.text.display import show


@dataclass(frozen=True, kw_only=True)
class ExactCost:
    """Seconds per step of both, by pair, and of the guard's comparison of all weights and momentum."""

    world_size: int
    exact_s: list[float]
    fast_s: list[float]
    guard_s: list[float]

    @property
    def ratios(self) -> list[float]:
        """Ratio of exact to fast, per pair."""
        return [exact / fast for exact, fast in zip(self.exact_s, self.fast_s, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over pairs."""
        return statistics.median(self.ratios)


def measure(
    world_size: int, *, pairs: int, batch_size: int, shards: int, width: float, stem: str
) -> ExactCost:
    """Measure `pairs` pairs of steps on `world_size` processes, after two of warm-up."""
    arguments = [str(pairs), str(batch_size), str(shards), str(width), stem]
    return ExactCost(**json.loads(run_processes([__file__, *arguments], world_size)))


def bench(
    *,
    pairs: Count = 7,
    batch_size: Count = 128,
    shards: Count = 8,
    width: Positive = 0.25,
    stem: Stem = "cifar",
    processes: tuple[Count, ...] = (1, 2),
    json_: JsonFlag = False,
) -> int:
    """The cost of exactness: a step with reduce=exact over one with reduce=fast, on one and two processes.

    Both ways take turns step by step within one run, with the same shards and one thread a process. The aim on a
    CPU is at most 1.15. The guard's comparison of all weights is timed beside it.

    Example: python docs/benchmarks exact --pairs 9 --width 0.25

    Args:
        pairs: Pairs of steps.
        batch_size: Images of the global batch.
        shards: Shards of the global batch.
        width: The network's width (DY-ResNet18).
        stem: cifar, strided or imagenet.
        processes: Numbers of processes to measure.
        json_: Print the result as JSON.
    """
    costs = [
        measure(count, pairs=pairs, batch_size=batch_size, shards=shards, width=width, stem=stem)
        for count in processes
    ]
    if json_:
        print(json.dumps([{**asdict(cost), "ratio": cost.ratio, "ratios": cost.ratios} for cost in costs]))
        return 0
    for cost in costs:
        show(
            f"{cost.world_size} process{'es' if cost.world_size > 1 else ''}: exact / fast {cost.ratio:.3f} "
            f"({min(cost.ratios):.3f} to {max(cost.ratios):.3f}, {pairs} pairs; "
            f"fast {1000 * statistics.median(cost.fast_s):.0f} ms a step), "
            f"guard {1000 * statistics.median(cost.guard_s):.1f} ms a comparison"
        )
    return 0


def main(arguments: Sequence[str]) -> None:
    """One process of `measure`."""
    pairs, batch_size, shards = map(int, arguments[:3])
    config = Config(
        model=ModelConfig(width=float(arguments[3]), stem=arguments[4]),  # type: ignore[arg-type]
        data=DataConfig(name="synthetic", limit=batch_size * 8),
        train=TrainConfig(batch_size=batch_size),
        parallel=ParallelConfig(shards=shards, reduce="exact", threads=1),
    )
    check_config(config)
    from dydist.run.assemble import prepare_environment

    prepare_environment(config)
    import torch.distributed as dist

    from dydist.data import open_dataset
    from dydist.data.loader import ShardedLoader
    from dydist.data.order import Order, rank_shards
    from dydist.engine import Votes, build_engine, check_agreement, start_world
    from dydist.run.session import build_model_for

    world = start_world(config)
    dataset = open_dataset(config.data, "train")
    order = Order(seed=0, size=len(dataset), batch_size=batch_size, shards=shards)
    fast = replace(config, parallel=replace(config.parallel, reduce="fast"))
    ways = {
        "fast": (build_engine(fast, build_model_for(fast, dataset), world), True),
        "exact": (build_engine(config, build_model_for(config, dataset), world), False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    mine = rank_shards(world.rank, world.size, shards)
    loaders = {
        name: iter(
            ShardedLoader(
                dataset,
                config.data,
                order,
                mine,
                device=world.device,
                start=0,
                stop=pairs + 2,
                together=together,
            )
        )
        for name, (_, together) in ways.items()
    }
    for pair in range(pairs + 2):
        names = list(ways) if pair % 2 else list(reversed(ways))
        for name in names:
            batch = next(loaders[name])
            if world.size > 1:
                dist.barrier()
            began = time.perf_counter()
            ways[name][0].train_step(batch, lr=0.01, temperature=10.0, votes=Votes())()
            if pair >= 2:
                seconds[name].append(time.perf_counter() - began)
    guard = []
    engine = ways["exact"][0]
    for _ in range(5):
        began = time.perf_counter()
        check_agreement({**engine.model_state(), **engine.optimizer_state()}, pairs, world)
        guard.append(time.perf_counter() - began)
    if world.rank == 0:
        cost = {"exact_s": seconds["exact"], "fast_s": seconds["fast"], "guard_s": guard}
        print(json.dumps({"world_size": world.size, **cost}))
    world.close()


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))
