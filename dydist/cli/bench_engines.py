"""`dydist bench engines`."""

from __future__ import annotations

from dydist.cli.bench_conv import Stem
from dydist.config.types import Count, Positive
from dydist.text.display import console, show


def bench_engines(
    *,
    steps: Count = 10,
    batch_size: Count = 128,
    shards: Count = 8,
    width: Positive = 0.25,
    stem: Stem = "cifar",
    processes: Count = 2,
    engines: tuple[str, ...] = ("ddp", "zero0", "zero1", "zero2", "zero3"),
    json: bool = False,
) -> int:
    """DDP against DeepSpeed's ZeRO 0 to 3: steps a second, memory, start-up, and gathering a checkpoint.

    Each engine gets fresh processes, one engine after the other. Memory is the peak of the process that used
    most (on a GPU what PyTorch held there); beside it what the formula of docs/deepspeed.md says of weights,
    gradients and momentum alone.

    Example: dydist bench engines --processes 2 --width 1 --stem strided

    Args:
        steps: Steps of each engine, after two that do not count.
        batch_size: Images of the global batch.
        shards: Shards of the global batch.
        width: The network's width (DY-ResNet18).
        stem: cifar, strided or imagenet.
        processes: Number of processes.
        engines: Which engines.
        json: Print the result as JSON.
    """
    import json as json_module
    import statistics
    import sys
    from dataclasses import asdict

    from rich.table import Table

    from dydist.bench.engines import ENGINES, EngineCost, measure
    from dydist.errors import UserError

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
    if json:
        print(json_module.dumps([{**asdict(cost), "steps_per_s": cost.steps_per_s} for cost in costs]))
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


COMMANDS = {"bench engines": bench_engines}
