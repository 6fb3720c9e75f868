"""`dydist bench exact`."""

from __future__ import annotations

from dydist.cli.bench_conv import Stem
from dydist.config.types import Count, Positive
from dydist.text.display import show


def bench_exact(
    *,
    pairs: Count = 7,
    batch_size: Count = 128,
    shards: Count = 8,
    width: Positive = 0.25,
    stem: Stem = "cifar",
    processes: tuple[Count, ...] = (1, 2),
    json: bool = False,
) -> int:
    """The cost of exactness: a step with reduce=exact over one with reduce=fast, on one and two processes.

    Both ways take turns step by step within one run, with the same shards and one thread a process. The aim on a
    CPU is at most 1.15. The guard's comparison of all weights is timed beside it.

    Example: dydist bench exact --pairs 9 --width 0.25

    Args:
        pairs: Pairs of steps.
        batch_size: Images of the global batch.
        shards: Shards of the global batch.
        width: The network's width (DY-ResNet18).
        stem: cifar, strided or imagenet.
        processes: Numbers of processes to measure.
        json: Print the result as JSON.
    """
    import json as json_module
    import statistics
    from dataclasses import asdict

    from dydist.bench.exact import measure

    costs = [
        measure(count, pairs=pairs, batch_size=batch_size, shards=shards, width=width, stem=stem)
        for count in processes
    ]
    if json:
        print(
            json_module.dumps(
                [{**asdict(cost), "ratio": cost.ratio, "ratios": cost.ratios} for cost in costs]
            )
        )
        return 0
    for cost in costs:
        show(
            f"{cost.world_size} process{'es' if cost.world_size > 1 else ''}: exact / fast {cost.ratio:.3f} "
            f"({min(cost.ratios):.3f} to {max(cost.ratios):.3f}, {pairs} pairs; "
            f"fast {1000 * statistics.median(cost.fast_s):.0f} ms a step), "
            f"guard {1000 * statistics.median(cost.guard_s):.1f} ms a comparison"
        )
    return 0


COMMANDS = {"bench exact": bench_exact}
