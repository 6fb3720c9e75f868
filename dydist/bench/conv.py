"""Dynamic against static: layer by layer, whole training steps, and peak memory.

Run as a module it is one fresh process of the memory measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from dydist.bench.local import run_processes
from dydist.bench.pairs import Ratio, take_turns
from dydist.bench.reference import PublicDynamicConv2d
from dydist.models import DynamicConv2d, dy_resnet18, static_resnet18
from dydist.models.resnet import ResNet18, Stem
from dydist.models.strategies import Geometry, Shape, rule

Kind = Literal["dynamic", "static", "public"]


@dataclass(frozen=True)
class LayerCost:
    """One layer, forward and backward. `limit` is the ratio on paper, `ratio` that reached, by strategy.

    Ratios are to the static convolution of the same shape; the layer's attention is included.
    """

    name: str
    shape: str
    rule: str
    limit: float
    static_ms: float
    ratio: dict[str, Ratio]


def layer_costs(
    *, stem: Stem, batch_size: int, width: float, strategies: Sequence[str], pairs: int
) -> list[LayerCost]:
    """Each dynamic layer of DY-ResNet18 on 32-pixel images, in the network's order; equal layers are measured once."""
    model = dy_resnet18(stem=stem, width=width)
    known: dict[str, LayerCost] = {}
    found = []
    for name, layer, size in _inputs(model, batch_size):
        key = f"{layer.extra_repr()} {size}"
        if key not in known:
            known[key] = _layer_cost(layer, size, strategies, pairs)
        found.append(replace(known[key], name=name))
    return found


def limit(shape: Shape) -> float:
    """Multiply-adds of forward and backward over those of a static convolution, both by their sums: the least known.

    Mixing kernels takes P + K a weight forward and for the gradient of x (P pixels, K kernels), and P + 2K for the
    gradients of kernels and attention. Mixing outputs takes K times a static convolution.
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
) -> dict[str, list[float]]:
    """Seconds of whole training steps (forward, backward, SGD with momentum) of each kind of network, in turns.

    `beside`: more ways by name, such as steps of another process (`dydist.bench.elsewhere`).
    """
    ways: dict[str, Callable[[], Any]] = {kind: train_step(kind, stem, batch_size, width) for kind in kinds}
    return take_turns(ways | dict(beside or {}), pairs=pairs)


def peak_memory(kind: Kind, *, stem: Stem, batch_size: int, width: float) -> int:
    """Peak resident bytes that two training steps add, in a fresh process, network and optimiser included."""
    return int(run_processes("dydist.bench.conv", [kind, stem, str(batch_size), str(width)], 1))


def network(kind: Kind, stem: Stem, width: float) -> ResNet18:
    """ResNet-18 of one kind."""
    if kind == "dynamic":
        return dy_resnet18(stem=stem, width=width)
    if kind == "static":
        return static_resnet18(stem=stem, width=width)
    return ResNet18(10, stem=stem, width=width, dropout=0.1, convolution=PublicDynamicConv2d)


def train_step(kind: Kind, stem: Stem, batch_size: int, width: float) -> Callable[[], None]:
    """A function that takes one training step: forward, backward, SGD with momentum, on random images of 32 pixels."""
    torch.manual_seed(0)
    model = network(kind, stem, width)
    fused = kind != "public"  # its users take the optimiser as torch makes it by default
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
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
    layer: DynamicConv2d, size: tuple[int, ...], strategies: Sequence[str], pairs: int
) -> LayerCost:
    arguments = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    static = nn.Conv2d(*arguments, bias=False)
    x = torch.randn(size, requires_grad=True)
    gradient = torch.randn_like(static(x))

    def run(module: nn.Module) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(module(x), [x, *module.parameters()], gradient)

    ways: dict[str, Callable[[], Any]] = {"static": run(static)}
    for name in strategies:
        ways[name] = run(DynamicConv2d(*arguments, strategy=name))
    seconds = take_turns(ways, pairs=pairs)
    shape = Shape.of(x, layer.weight, Geometry(layer.stride, layer.padding, layer.dilation, layer.groups))
    kernel, rows = layer.kernel_size[0], shape.output[0]
    return LayerCost(
        name="",
        shape=f"{layer.in_channels}→{layer.out_channels}, {kernel}x{kernel}, {rows}x{rows}",
        rule=rule(shape),
        limit=limit(shape),
        static_ms=1000 * min(seconds["static"]),
        ratio={name: Ratio.of(seconds[name], seconds["static"]) for name in strategies},
    )


def main(arguments: Sequence[str]) -> None:
    """Print the peak of two steps over what the process held before it built the network."""
    kind, stem, batch_size, width = arguments
    torch.zeros(8).sum()
    before = _peak()
    step = train_step(kind, stem, int(batch_size), float(width))  # type: ignore[arg-type]
    step()
    step()
    print(_peak() - before)


def _peak() -> int:
    """Most resident bytes so far. Not `ru_maxrss`, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
