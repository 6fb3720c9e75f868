"""The cost of exactness: a step with reduce=exact over one with reduce=fast, interleaved in one run.

`dydist bench exact` runs this module as the processes of the measurement; process 0 prints JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dydist.bench.local import run_processes
from dydist.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainConfig
from dydist.config.rules import check_config
from dydist.process.end import run_to_end


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
    return ExactCost(**json.loads(run_processes("dydist.bench.exact", arguments, world_size)))


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
