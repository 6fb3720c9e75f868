"""DDP against ZeRO 0 to 3: step time, peak memory of a process, start-up time, and pause of a checkpoint.

`python docs/benchmarks engines` runs this file as the processes of one engine's measurement; process 0 prints JSON.
Each engine has new processes, since peak memory is per process.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from dydist.cli.bench_output import JsonFlag
from dydist.config import Config, DataConfig, ModelConfig, ParallelConfig, TrainConfig
from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.errors import UserError
from dydist.models.resnet import Stem
from dydist.process.end import run_to_end
from dydist.process.local import run_processes
from dydist.text.display import console, show

ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero3")


@dataclass(frozen=True, kw_only=True)
class EngineCost:
    """One engine's cost, in seconds, and in bytes of the process with the highest peak. `held_bytes`: by formula."""

    engine: str
    world_size: int
    step_s: list[float]
    startup_s: float
    gather_s: float
    peak_bytes: int
    held_bytes: int
    parameters: int

    @property
    def steps_per_s(self) -> float:
        """Steps per second, by the median step."""
        return 1 / statistics.median(self.step_s)


def measure(
    engine: str, world_size: int, *, steps: int, batch_size: int, shards: int, width: float, stem: str
) -> EngineCost:
    """Measure `steps` steps of one engine on `world_size` processes, after two steps of warm-up."""
    arguments = [engine, str(steps), str(batch_size), str(shards), str(width), stem]
    printed = run_processes([__file__, *arguments], world_size)
    return EngineCost(**json.loads(printed.strip().splitlines()[-1]))


def held_bytes(parameters: int, engine: str, world_size: int) -> int:
    """Bytes per process of fp32 weights, gradients, momentum (and ZeRO's copy of the weights).

    DDP and ZeRO 0 partition none of them, ZeRO 1 momentum and the copy, ZeRO 2 also gradients, ZeRO 3 also weights
    (arXiv:1910.02054, table 1, with SGD's one buffer instead of Adam's two).
    """
    part = parameters / world_size
    weights, gradients, momentum, copy = {
        "ddp": (parameters, parameters, parameters, 0),
        "zero0": (parameters, parameters, parameters, 0),
        "zero1": (parameters, parameters, part, part),
        "zero2": (parameters, part, part, part),
        "zero3": (part, part, part, part),
    }[engine]
    return round(4 * (weights + gradients + momentum + copy))


def config_for(engine: str, *, batch_size: int, shards: int, width: float, stem: str) -> Config:
    """The configuration of the measured run."""
    parallel: dict[str, Any] = {"shards": shards}
    if engine != "ddp":
        parallel |= {"engine": "deepspeed", "zero": int(engine.removeprefix("zero"))}
    return Config(
        model=ModelConfig(width=width, stem=stem),  # type: ignore[arg-type]
        data=DataConfig(name="synthetic", limit=batch_size * 4),
        train=TrainConfig(batch_size=batch_size),
        parallel=ParallelConfig(**parallel),
    )


def bench(
    *,
    steps: Count = 10,
    batch_size: Count = 128,
    shards: Count = 8,
    width: Positive = 0.25,
    stem: Stem = "cifar",
    processes: Count = 2,
    engines: tuple[str, ...] = ("ddp", "zero0", "zero1", "zero2", "zero3"),
    json_: JsonFlag = False,
) -> int:
    """DDP against DeepSpeed's ZeRO 0 to 3: steps a second, memory, start-up, and gathering a checkpoint.

    Each engine gets fresh processes, one engine after the other. Memory is the peak of the process that used
    most (on a GPU what PyTorch held there); beside it what the formula of docs/deepspeed.md says of weights,
    gradients and momentum alone.

    Example: python docs/benchmarks engines --processes 2 --width 1 --stem strided

    Args:
        steps: Steps of each engine, after two that do not count.
        batch_size: Images of the global batch.
        shards: Shards of the global batch.
        width: The network's width (DY-ResNet18).
        stem: cifar, strided or imagenet.
        processes: Number of processes.
        engines: Which engines.
        json_: Print the result as JSON.
    """
    if unknown := [name for name in engines if name not in ENGINES]:
        raise UserError(f"--engines: {unknown[0]} is no engine; use some of {', '.join(ENGINES)}")
    costs: list[EngineCost] = []
    for name in engines:
        show(f"{name} on {processes} process{'es' if processes > 1 else ''} …", file=sys.stderr)
        costs.append(
            measure(
                name,
                processes,
                steps=steps,
                batch_size=batch_size,
                shards=shards,
                width=width,
                stem=stem,
            )
        )
    if json_:
        print(json.dumps([{**asdict(cost), "steps_per_s": cost.steps_per_s} for cost in costs]))
        return 0
    table = Table("engine", "steps/s", "step ms (range)", "start s", "gather s", "peak MiB", "held MiB")
    for cost in costs:
        low, high = 1000 * min(cost.step_s), 1000 * max(cost.step_s)
        table.add_row(
            cost.engine,
            f"{cost.steps_per_s:.2f}",
            f"{1000 * statistics.median(cost.step_s):.0f} ({low:.0f}–{high:.0f})",
            f"{cost.startup_s:.1f}",
            f"{cost.gather_s:.2f}",
            f"{cost.peak_bytes / 2**20:.0f}",
            f"{cost.held_bytes / 2**20:.0f}",
        )
    console().print(table)
    show(f"{costs[0].parameters / 1e6:.1f} M parameters, {processes} processes, {steps} steps each")
    return 0


def main(arguments: Sequence[str]) -> None:
    """One process of `measure`."""
    began = time.perf_counter()
    engine_name, steps = arguments[0], int(arguments[1])
    batch_size, shards = int(arguments[2]), int(arguments[3])
    config = config_for(
        engine_name, batch_size=batch_size, shards=shards, width=float(arguments[4]), stem=arguments[5]
    )
    check_config(config)
    if config.parallel.engine == "deepspeed":
        from dydist.engine.deepspeed_import import import_deepspeed

        import_deepspeed(config)
    import torch
    import torch.distributed as dist

    from dydist.data import open_dataset
    from dydist.data.loader import ShardedLoader
    from dydist.data.order import Order, rank_shards
    from dydist.engine import Votes, build_engine, start_world
    from dydist.run.session import build_model_for

    world = start_world(config)
    dataset = open_dataset(config.data, "train")
    order = Order(seed=0, size=len(dataset), batch_size=batch_size, shards=shards)
    network = build_model_for(config, dataset)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    engine = build_engine(config, network, world)
    startup_s = time.perf_counter() - began
    seconds = []
    mine = rank_shards(world.rank, world.size, shards)
    with ShardedLoader(
        dataset, config.data, order, mine, device=world.device, start=0, stop=steps + 2, together=True
    ) as loader:
        for number, batch in enumerate(loader):
            if world.size > 1:
                dist.barrier()
            step_began = time.perf_counter()
            engine.train_step(batch, lr=0.01, temperature=10.0, votes=Votes())()
            if number >= 2:
                seconds.append(time.perf_counter() - step_began)
    on_gpu = world.device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(world.device)
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    gather_began = time.perf_counter()
    tensors = {**engine.model_state(), **engine.optimizer_state()}
    gather_s = time.perf_counter() - gather_began
    del tensors
    peaks = world.gather(int(peak))
    if world.rank == 0:
        cost = EngineCost(
            engine=engine_name,
            world_size=world.size,
            step_s=seconds,
            startup_s=startup_s,
            gather_s=gather_s,
            peak_bytes=max(peaks),
            held_bytes=held_bytes(parameters, engine_name, world.size),
            parameters=parameters,
        )
        print(json.dumps(cost.__dict__))
    world.close()


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))  # DeepSpeed leaves threads running (docs/notes/engines.md)
