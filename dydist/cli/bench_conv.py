"""`dydist bench conv` and `dydist bench step`: the cost of dynamic convolution over static."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

from dydist.cli.bench_output import (
    DeviceOptions,
    JsonFlag,
    NetworkOptions,
    milliseconds,
    print_json,
    print_machine,
    print_table,
    start,
)
from dydist.config.types import Count
from dydist.text.display import show

Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]


def bench_conv(
    *,
    network: Annotated[NetworkOptions, OmitArgPrefixes],
    strategies: tuple[str, ...] = ("auto",),
    pairs: Count = 5,
    on: Annotated[DeviceOptions, OmitArgPrefixes],
    json_: JsonFlag = False,
) -> int:
    """Each dynamic layer of DY-ResNet18, forward and backward, over the static convolution of its shape.

    Both are interleaved in one run; the ratio is the median over pairs, with minimum and maximum. `limit` is the
    theoretical ratio of multiply-adds (docs/performance.md).

    Example: dydist bench conv --stem imagenet --strategies auto mix

    Args:
        strategies: Strategies to measure: auto, grouped, mix, blocked, fused, winograd, taps, stacked.
        pairs: Pairs of passes; on a GPU of ten passes each.
        json_: Print the result as JSON.
    """
    start(on.threads)
    from dydist.bench.conv import layer_costs
    from dydist.bench.pairs import describe_machine
    from dydist.bench.target import Target
    from dydist.models.strategies import check_strategy

    for name in strategies:
        check_strategy(name)
    target = Target.of(on.device, on.precision)
    costs = layer_costs(**asdict(network), strategies=strategies, pairs=pairs, target=target)
    if json_:
        print_json(
            {
                "machine": describe_machine(target.device),
                "precision": on.precision,
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
    network: Annotated[NetworkOptions, OmitArgPrefixes],
    public: bool = True,
    public_in_large_pages: bool = False,
    memory: bool = False,
    pairs: Count = 5,
    on: Annotated[DeviceOptions, OmitArgPrefixes],
    compile: Compile = "off",
    measure: bool = False,
    json_: JsonFlag = False,
) -> int:
    """Whole training steps: DY-ResNet18 over static ResNet-18, and the reference implementation over DY-ResNet18.

    The reference implementation (`public`) is one convolution with groups = images. It runs in its own process with
    torch's defaults, as its users run it: a training process of dydist uses large pages, from which it would gain
    too. All are interleaved; the ratio is the median over pairs, with the least and the greatest. On a GPU a turn is
    ten steps, and all run in this process.

    Example: dydist bench step --stem imagenet --batch-size 64 --memory

    Args:
        public: Measure the reference implementation too. It is slow.
        public_in_large_pages: Measure it once more, with its memory in large pages as ours.
        memory: Measure peak memory too, each network in a fresh process.
        pairs: Pairs of turns.
        compile: torch.compile's mode for all networks but the reference implementation.
        measure: Take each layer's strategy as measured first, as a run with reduce=fast does, and not by the rule.
        json_: Print the result as JSON.
    """
    import statistics

    start(on.threads)
    from contextlib import ExitStack

    import torch

    from dydist.bench.conv import Kind, peak_memory, step_costs, train_step
    from dydist.bench.pairs import Ratio, describe_machine
    from dydist.bench.subprocess_steps import subprocess_steps
    from dydist.bench.target import Target
    from dydist.errors import UserError

    target = Target.of(on.device, on.precision, compile)
    if public_in_large_pages and target.on_gpu:
        raise UserError(
            "--public-in-large-pages: a GPU's memory is not in this machine's pages; leave it out"
        )
    kinds: list[Kind] = ["static", "dynamic", *(["public"] if public else [])]  # type: ignore[list-item]
    sizes: dict[str, Any] = asdict(network)
    with ExitStack() as processes:
        beside = {}
        plain = Target(target.device, on.precision)
        if public and target.on_gpu:
            beside["public"] = train_step("public", **sizes, target=plain)
        elif public:
            beside["public"] = processes.enter_context(
                subprocess_steps("public", **sizes, precision=on.precision)
            )
        here = [kind for kind in kinds if kind != "public"]
        if public_in_large_pages:
            beside["public, large pages"] = train_step("public", **sizes, target=plain)
        seconds = step_costs(**sizes, kinds=here, pairs=pairs, beside=beside, target=target, measure=measure)
    ratios = {"dynamic / static": Ratio.of(seconds["dynamic"], seconds["static"])}
    ratios |= {f"{name} / dynamic": Ratio.of(seconds[name], seconds["dynamic"]) for name in beside}
    if target.on_gpu:  # the next measurement has the GPU for itself
        beside.clear()
        torch.cuda.empty_cache()
    peaks = {
        kind: peak_memory(kind, **sizes, target=plain if kind == "public" else target, measure=measure)
        for kind in (kinds if memory else [])
    }
    if json_:
        print_json(
            {
                "machine": describe_machine(target.device),
                "precision": on.precision,
                "compile": compile,
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
    print_machine(target.device)
    return 0


COMMANDS = {"bench conv": bench_conv, "bench step": bench_step}
