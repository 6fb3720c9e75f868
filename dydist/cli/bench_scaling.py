"""`dydist bench scaling`."""

from __future__ import annotations

from dydist.cli.bench_conv import Stem
from dydist.cli.bench_output import print_json, print_machine, print_table, start
from dydist.config.types import Count, Positive
from dydist.text.display import show


def bench_scaling(
    *,
    stem: Stem = "cifar",
    batch_size: Count = 64,
    width: Positive = 1.0,
    pairs: Count = 5,
    images_per_gpu: Count = 64,
    json: bool = False,
) -> int:
    """Two processes over one at the same global batch, what is lost on the way, and 1,024 GPUs on paper.

    Two processes with a thread each take turns at: one alone with the whole batch, one alone with half of it, both
    with half each. The ratio is the median over rounds, with the least and the greatest; 2 is all there is to gain.
    The paper model (docs/notes/performance.md) takes the jitter measured here and figures quoted with their sources.

    Example: dydist bench scaling --stem strided --width 0.5

    Args:
        stem: cifar, strided or imagenet.
        batch_size: Images of the global batch.
        width: The network's width (DY-ResNet18).
        pairs: Rounds, after one that does not count.
        images_per_gpu: Images on each GPU, on paper.
        json: Print the result as JSON.
    """
    import statistics
    from dataclasses import asdict

    start(1)
    from dydist.bench.pairs import describe_machine
    from dydist.bench.scaling import WAYS, measure
    from dydist.bench.scaling_model import predict, step_multiply_adds

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
    if json:
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


COMMANDS = {"bench scaling": bench_scaling}
