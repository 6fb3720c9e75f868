"""Dynamic against static convolution: per layer, per training step, and peak memory.

Run as a module, this is a process of the memory measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydist.bench.pairs import Ratio, interleave
from dydist.bench.reference import ReferenceDynamicConv2d
from dydist.bench.target import Target
from dydist.config import Config
from dydist.engine.core import begin_step
from dydist.engine.world import set_numerics
from dydist.models import (
    DynamicConv2d,
    apply_strategies,
    choose_strategies,
    dy_resnet18,
    dynamic_layers,
    static_resnet18,
)
from dydist.models.resnet import ResNet18, Stem
from dydist.models.strategies import Geometry, Shape, rule
from dydist.process.end import run_to_end
from dydist.process.local import run_processes

Kind = Literal["dynamic", "static", "public"]
CPU = Target()


@dataclass(frozen=True)
class LayerCost:
    """One layer, forward and backward. `limit`: the theoretical ratio; `ratio`: the measured ones, by strategy.

    Ratios are to the static convolution of the same shape, and include the layer's attention.
    """

    name: str
    shape: str
    rule: str
    limit: float
    static_ms: float
    ratio: dict[str, Ratio]


def layer_costs(
    *,
    stem: Stem,
    batch_size: int,
    width: float,
    strategies: Sequence[str],
    pairs: int,
    target: Target = CPU,
) -> list[LayerCost]:
    """Measure each dynamic layer of DY-ResNet18 on 32-pixel images, in order; equal layers are measured once.

    In half precision, inputs are in that dtype, as from the previous layer, and weights in float32 (autocast).
    """
    model = dy_resnet18(stem=stem, width=width)
    known: dict[str, LayerCost] = {}
    found = []
    for name, layer, size in _inputs(model, batch_size):
        key = f"{layer.extra_repr()} {size}"
        if key not in known:
            known[key] = _layer_cost(layer, size, strategies, pairs, target)
        found.append(replace(known[key], name=name))
    return found


def limit(shape: Shape) -> float:
    """Multiply-adds of forward and backward over those of a static convolution, both direct: the lowest known.

    With P pixels and K kernels, mixing kernels takes P + K per weight in forward and for the gradient of x, and P +
    2K for the gradients of kernels and attention. Mixing outputs takes K times a static convolution.
    """
    pixels, kernels = shape.pixels, shape.kernels
    return min(float(kernels), (3 * pixels + 4 * kernels) / (3 * pixels))


def step_costs(
    *,
    stem: Stem,
    batch_size: int,
    width: float,
    kinds: Sequence[Kind],
    pairs: int,
    beside: Mapping[str, Callable[[], Any]] | None = None,
    target: Target = CPU,
    measure: bool = False,
) -> dict[str, list[float]]:
    """Seconds of training steps (forward, backward, SGD with momentum) of each kind of network, interleaved.

    `beside`: more alternatives by name, such as steps of another process (`dydist.bench.subprocess_steps`).
    `measure`: see `train_step`.
    """
    ways: dict[str, Callable[[], Any]] = {
        kind: train_step(kind, stem, batch_size, width, target=target, measure=measure) for kind in kinds
    }
    return interleave(ways | dict(beside or {}), pairs=pairs, clock=target.clock, repeat=target.repeat)


def peak_memory(
    kind: Kind, *, stem: Stem, batch_size: int, width: float, target: Target = CPU, measure: bool = False
) -> int:
    """Peak bytes added by network, optimizer and two training steps in a new process.

    On a CPU, resident memory; on a GPU, memory allocated by tensors.
    """
    sizes = [kind, stem, str(batch_size), str(width)]
    how = [target.device, target.precision, target.compile, "measure" if measure else "rule"]
    return int(run_processes(["-m", "dydist.bench.conv", *sizes, *how], 1))


def network(kind: Kind, stem: Stem, width: float) -> ResNet18:
    """ResNet-18 of one kind."""
    if kind == "dynamic":
        return dy_resnet18(stem=stem, width=width)
    if kind == "static":
        return static_resnet18(stem=stem, width=width)

    def convolution(name: str, *sizes: int) -> ReferenceDynamicConv2d:
        return ReferenceDynamicConv2d(*sizes)

    return ResNet18(10, stem=stem, width=width, dropout=0.1, convolution=convolution)


def train_step(
    kind: Kind,
    stem: Stem,
    batch_size: int,
    width: float,
    *,
    target: Target = CPU,
    measure: bool = False,
) -> Callable[[], None]:
    """A function that runs one training step (forward, backward, SGD with momentum) on random images of 32 pixels.

    `measure`: choose strategies by measurement first, as a run with reduce=fast does.
    """
    torch.manual_seed(0)
    model = network(kind, stem, width)
    if measure and kind == "dynamic":
        layers = dynamic_layers(model, (3, 32, 32))
        chosen = choose_strategies(
            layers, images=batch_size, measure=True, device=target.device, dtype=target.dtype
        )
        apply_strategies(model, chosen)
    target.ready(model)
    fused = kind != "public"  # its users have torch's default optimizer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
    images = torch.randn(batch_size, 3, 32, 32).to(target.device)
    labels = torch.randint(10, (batch_size,)).to(target.device)

    def step() -> None:
        begin_step(target.compile)
        optimizer.zero_grad(set_to_none=True)
        with target.autocast():
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _inputs(model: nn.Module, batch_size: int) -> list[tuple[str, DynamicConv2d, tuple[int, ...]]]:
    seen: list[tuple[str, DynamicConv2d, tuple[int, ...]]] = []
    for name, part in model.named_modules():
        if isinstance(part, DynamicConv2d):
            part.register_forward_pre_hook(
                lambda layer, inputs, name=name: seen.append(
                    (name, layer, (batch_size, *inputs[0].shape[1:]))
                )
            )
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return seen


def _layer_cost(
    layer: DynamicConv2d, size: tuple[int, ...], strategies: Sequence[str], pairs: int, target: Target
) -> LayerCost:
    arguments = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    static = nn.Conv2d(*arguments, bias=False)
    x = torch.randn(size).to(target.device, target.dtype).requires_grad_()

    def forward(module: nn.Module) -> Tensor:
        with target.autocast():
            out: Tensor = module(x)
        return out

    gradient = torch.randn_like(forward(target.ready(static)))

    def run(module: nn.Module) -> Callable[[], Any]:
        target.ready(module)
        return lambda: torch.autograd.grad(forward(module), [x, *module.parameters()], gradient)

    ways: dict[str, Callable[[], Any]] = {"static": run(static)}
    for name in strategies:
        ways[name] = run(DynamicConv2d(*arguments, strategy=name))
    seconds = interleave(ways, pairs=pairs, clock=target.clock, repeat=target.repeat)
    shape = Shape.of(x, layer.weight, Geometry(layer.stride, layer.padding, layer.dilation, layer.groups))
    kernel, rows = layer.kernel_size[0], shape.output[0]
    return LayerCost(
        name="",
        shape=f"{layer.in_channels}→{layer.out_channels}, {kernel}x{kernel}, {rows}x{rows}",
        rule=rule(shape, target.device),
        limit=limit(shape),
        static_ms=1000 * min(seconds["static"]),
        ratio={name: Ratio.of(seconds[name], seconds["static"]) for name in strategies},
    )


def main(arguments: Sequence[str]) -> None:
    """Print the peak of two steps minus the memory before the network was built."""
    kind, stem, batch_size, width, device, precision, compile, strategies = arguments
    set_numerics(Config())
    target = Target.of(device, precision, compile)  # type: ignore[arg-type]
    torch.zeros(8, device=device).sum()
    measure = strategies == "measure"
    if measure and target.on_gpu:  # the measurement itself allocates memory
        train_step(kind, stem, int(batch_size), float(width), target=target, measure=True)  # type: ignore[arg-type]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = _peak(target)
    step = train_step(kind, stem, int(batch_size), float(width), target=target, measure=measure)  # type: ignore[arg-type]
    step()
    step()
    print(_peak(target) - before)


def _peak(target: Target) -> int:
    """Peak bytes so far. Not `ru_maxrss`, which a process inherits from its parent."""
    if target.on_gpu:
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))
