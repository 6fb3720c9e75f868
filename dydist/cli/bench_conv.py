"""`dydist bench conv` and `dydist bench step`: the cost of dynamic convolution over static."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dydist.cli.bench_output import milliseconds, print_json, print_machine, print_table, start
from dydist.config.types import Count, Positive
from dydist.text.display import show

if TYPE_CHECKING:
    from dydist.bench.loop import LoopCost

Stem = Literal["cifar", "strided", "imagenet"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]


def bench_conv(
    *,
    stem: Stem = "cifar",
    batch_size: Count = 64,
    width: Positive = 1.0,
    strategies: tuple[str, ...] = ("auto",),
    pairs: Count = 5,
    device: Device = "auto",
    precision: Precision = "fp32",
    threads: Count | None = None,
    json: bool = False,
) -> int:
    """Each dynamic layer of DY-ResNet18, forward and backward, over the static convolution of its shape.

    Both are interleaved in one run; the ratio is the median over pairs, with minimum and maximum. `limit` is the
    theoretical ratio of multiply-adds (docs/performance.md).

    Example: dydist bench conv --stem imagenet --strategies auto mix

    Args:
        stem: cifar, strided or imagenet; images have 32 pixels.
        batch_size: Images.
        width: Multiplies every channel count.
        strategies: Strategies to measure: auto, grouped, mix, blocked, fused, winograd, taps, stacked.
        pairs: Pairs of passes; on a GPU of ten passes each.
        device: auto takes the GPU where there is one.
        precision: fp32, or autocast to bf16 or fp16.
        threads: CPU threads; torch's default where not given.
        json: Print the result as JSON.
    """
    from dataclasses import asdict

    start(threads)
    from dydist.bench.conv import layer_costs
    from dydist.bench.pairs import describe_machine
    from dydist.bench.target import Target
    from dydist.models.strategies import check_strategy

    for name in strategies:
        check_strategy(name)
    target = Target.of(device, precision)
    costs = layer_costs(
        stem=stem, batch_size=batch_size, width=width, strategies=strategies, pairs=pairs, target=target
    )
    if json:
        print_json(
            {
                "machine": describe_machine(target.device),
                "precision": precision,
                "layers": [asdict(cost) for cost in costs],
            }
        )
        return 0
    rows = [
        [cost.name, cost.shape, cost.rule, milliseconds(cost.static_ms), f"{cost.limit:.2f}"]
        + [str(cost.ratio[name]) for name in strategies]
        for cost in costs
    ]
    print_table(["layer", "shape", "auto takes", "static ms", "limit", *strategies], rows)
    print_machine(target.device)
    return 0


def bench_step(
    *,
    stem: Stem = "cifar",
    batch_size: Count = 64,
    width: Positive = 1.0,
    public: bool = True,
    public_in_large_pages: bool = False,
    memory: bool = False,
    loop: bool = False,
    pairs: Count = 5,
    device: Device = "auto",
    precision: Precision = "fp32",
    compile: Compile = "off",
    measure: bool = False,
    threads: Count | None = None,
    json: bool = False,
) -> int:
    """Whole training steps: DY-ResNet18 over static ResNet-18, and the reference implementation over DY-ResNet18.

    The reference implementation (`public`) is one convolution with groups = images. It runs in its own process with
    torch's defaults, as its users run it: a training process of dydist uses large pages, from which it would gain
    too. All are interleaved; the ratio is the median over pairs, with the least and the greatest. On a GPU a turn is
    ten steps, and all run in this process.

    Example: dydist bench step --stem imagenet --batch-size 64 --memory

    Args:
        stem: cifar, strided or imagenet; images have 32 pixels.
        batch_size: Images of a step.
        width: Multiplies every channel count.
        public: Measure the public way too. It is slow.
        public_in_large_pages: Measure the public way once more, with its memory in large pages as ours.
        memory: Measure peak memory too, each network in a fresh process.
        loop: Measure the training loop's own cost too, on the CPU: 25 steps of a real run, less forward, backward and
            optimiser.
        pairs: Pairs of turns.
        device: auto takes the GPU where there is one.
        precision: fp32, or autocast to bf16 or fp16.
        compile: torch.compile's mode for all networks but the public one.
        measure: Take each layer's strategy as measured first, as a run with reduce=fast does, and not by the rule.
        threads: CPU threads; torch's default where not given.
        json: Print the result as JSON.
    """
    import statistics
    from dataclasses import asdict

    start(threads)
    from contextlib import ExitStack

    import torch

    from dydist.bench.conv import Kind, peak_memory, step_costs, train_step
    from dydist.bench.pairs import Ratio, describe_machine
    from dydist.bench.subprocess_steps import subprocess_steps
    from dydist.bench.target import Target
    from dydist.errors import UserError

    target = Target.of(device, precision, compile)
    if loop and target.on_gpu:
        raise UserError(
            "--loop: its parts are told apart on a CPU alone, where nothing is queued; add --device cpu"
        )
    if public_in_large_pages and target.on_gpu:
        raise UserError(
            "--public-in-large-pages: a GPU's memory is not in this machine's pages; leave it out"
        )
    kinds: list[Kind] = ["static", "dynamic", *(["public"] if public else [])]  # type: ignore[list-item]
    network: dict[str, Any] = {"stem": stem, "batch_size": batch_size, "width": width}
    with ExitStack() as processes:
        beside = {}
        plain = Target(target.device, precision)
        if public and target.on_gpu:
            beside["public"] = train_step("public", **network, target=plain)
        elif public:
            beside["public"] = processes.enter_context(
                subprocess_steps("public", **network, precision=precision)
            )
        here = [kind for kind in kinds if kind != "public"]
        if public_in_large_pages:
            beside["public, large pages"] = train_step("public", **network, target=plain)
        seconds = step_costs(
            **network, kinds=here, pairs=pairs, beside=beside, target=target, measure=measure
        )
    ratios = {"dynamic / static": Ratio.of(seconds["dynamic"], seconds["static"])}
    ratios |= {f"{name} / dynamic": Ratio.of(seconds[name], seconds["dynamic"]) for name in beside}
    if target.on_gpu:  # what is measured next has the GPU to itself
        beside.clear()
        torch.cuda.empty_cache()
    peaks = {
        kind: peak_memory(kind, **network, target=plain if kind == "public" else target, measure=measure)
        for kind in (kinds if memory else [])
    }
    own = _measure_loop(stem, batch_size, width, steps=25) if loop else None
    if json:
        print_json(
            {
                "machine": describe_machine(target.device),
                "precision": precision,
                "compile": compile,
                "loop": None if own is None else {"own_share": own.own_share, "seconds": own.parts},
                "seconds": seconds,
                "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
                "peak_bytes": peaks,
            }
        )
        return 0
    header = ["network", "ms a step", *(["peak MiB"] if memory else [])]
    print_table(
        header,
        [
            [name, milliseconds(1000 * statistics.median(taken))]
            + ([f"{peaks[name] / 2**20:.0f}" if name in peaks else ""] if memory else [])
            for name, taken in seconds.items()
        ],
    )
    for name, ratio in ratios.items():
        show(f"{name}: {ratio}")
    if own is not None:
        _print_loop(own)
    print_machine(target.device)
    return 0


def _measure_loop(stem: Stem, batch_size: int, width: float, steps: int) -> LoopCost:
    import tempfile
    from pathlib import Path

    from dydist.bench.loop import loop_cost

    with tempfile.TemporaryDirectory() as folder:
        return loop_cost(stem=stem, batch_size=batch_size, width=width, steps=steps, folder=Path(folder))


def _print_loop(cost: LoopCost) -> None:
    whole = sum(cost.median_ms(part) for part in cost.parts)
    rows = [
        [part, f"{cost.median_ms(part):.2f}", f"{cost.median_ms(part) / whole:.2%}"] for part in cost.parts
    ]
    print_table(["part of the loop's step", "median ms", "share"], rows)
    low, high = min(cost.own_shares), max(cost.own_shares)
    show(f"the loop's own cost: {cost.own_share:.2%} of all steps' time ({low:.2%}–{high:.2%} of a step)")


COMMANDS = {"bench conv": bench_conv, "bench step": bench_step}
