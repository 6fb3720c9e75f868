"""Chooses the strategy of each layer of a network: by rule, or by measurement on this machine.

A measured choice depends on the machine and on noise, and so do the last bits of the results; `exact` reduction
therefore uses the rule. The choice is a plain dictionary, which a run records and a resumed run applies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dydist.errors import UserError
from dydist.models.dynamic_conv import DynamicConv2d
from dydist.models.measured import Problem, TimingCache
from dydist.models.strategies import Geometry, Shape, check_strategy, rule
from dydist.models.strategies.native import cache_folder, reason
from dydist.models.strategies.stacked import triton_reason
from dydist.text.display import markdown

MARGIN = 0.95
"""A strategy replaces the rule's only if it takes at most this share of its time; a smaller gain may be noise."""


@dataclass(frozen=True)
class DynamicLayer:
    """The properties of a dynamic convolution for a choice, also valid after ZeRO has partitioned its weights.

    `strategy`: as configured. `size`: its input's (C, H, W). `weight`: the kernels' (K, out, C/groups, kh, kw).
    """

    strategy: str
    size: tuple[int, int, int]
    weight: tuple[int, int, int, int, int]
    geometry: Geometry

    def shape(self, images: int) -> Shape:
        """The layer's sizes for a batch of `images`."""
        x, weight = (torch.empty(size, device="meta") for size in ((images, *self.size), self.weight))
        return Shape.of(x, weight, self.geometry)


def dynamic_layers(model: nn.Module, image_size: Sequence[int]) -> dict[str, DynamicLayer]:
    """Each dynamic convolution of `model` by name, for images of `image_size` [C, H, W].

    Runs a forward pass on one image of zeros. Does not change weights, statistics, training modes or torch's
    generators.
    """
    found: dict[str, DynamicLayer] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, DynamicConv2d)
            _, channels, height, width = inputs[0].shape
            geometry = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
            kernels, outputs, inputs_each, *kernel = layer.weight.shape
            weight = (kernels, outputs, inputs_each, kernel[0], kernel[1])
            found[name] = DynamicLayer(layer.strategy, (channels, height, width), weight, geometry)

        return hook

    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, DynamicConv2d)]
    if not parts:
        return {}
    handles = [part.register_forward_pre_hook(note(name)) for name, part in parts]
    modes = {part: part.training for part in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *image_size, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return found


def choose_strategies(
    layers: Mapping[str, DynamicLayer],
    *,
    images: int,
    measure: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, str]:
    """Choose the strategy of each of `layers` (from `dynamic_layers`), by layer name.

    `images`: batch size of one pass of one process. `dtype`: compute dtype. With `measure`, forward and backward of
    each strategy are timed once per distinct layer and cached in the file `cache` (default: in the user's cache
    folder) by hardware and version; the rule's strategy is kept unless another is clearly faster. Without `measure`,
    the rule decides, by shape only. Layers whose strategy is not `auto` keep it.

    In a distributed run, call this on one process and broadcast the result: all must use the same choice.
    """
    device = torch.device(device)
    asked = {name: layer for name, layer in layers.items() if layer.strategy == "auto"}
    ruled = {name: rule(layer.shape(images), device.type) for name, layer in asked.items()}
    chosen = {name: ruled.get(name, layer.strategy) for name, layer in layers.items()}
    if not measure or not asked:
        return chosen
    problems = {
        name: Problem(layer.shape(images), (images, *layer.size), layer.weight, layer.geometry, dtype, device)
        for name, layer in asked.items()
    }
    problems = {name: problem for name, problem in problems.items() if len(problem.candidates()) > 1}
    times = TimingCache(cache or cache_folder() / "strategies.json", clock)
    for name, seconds in times.measure(problems).items():
        best = min(seconds, key=lambda strategy: (seconds[strategy], strategy))
        if seconds[best] < MARGIN * seconds.get(ruled[name], float("inf")):
            chosen[name] = best
    return chosen


def apply_strategies(model: nn.Module, chosen: Mapping[str, str]) -> None:
    """Set the strategy of each named layer. Raises UserError for an unknown layer or strategy."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, DynamicConv2d)}
    for name, strategy in chosen.items():
        if name not in layers:
            raise UserError(
                f"strategies: {name!r} is not a dynamic convolution of this network, which has "
                f"{', '.join(layers) or 'none'}; choose anew"
            )
        layers[name].strategy = check_strategy(strategy)


def describe_choice(chosen: Mapping[str, str]) -> str:
    """Layers per strategy, most frequent first: `15 fused, 4 blocked`."""
    counts = sorted(Counter(chosen.values()).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in counts)


def choice_table(layers: Mapping[str, DynamicLayer], chosen: Mapping[str, str]) -> str:
    """The choice of each layer as a Markdown table."""
    rows = ["| layer | input | kernels | strategy |", "| --- | --- | --- | --- |"]
    for name, strategy in chosen.items():
        size, weight = ("×".join(map(str, sizes)) for sizes in (layers[name].size, layers[name].weight))
        rows.append(f"| {markdown(name)} | {size} | {weight} | {strategy} |")
    return "\n".join(rows)


def slow_kernels(chosen: Mapping[str, str], device: torch.device | str) -> str | None:
    """A warning that chosen strategies are slower on `device`, with the reason; None if none is."""
    device = torch.device(device).type
    native = sum(name in ("fused", "winograd") for name in chosen.values())
    if native and device != "cpu":
        return (
            f"{_layers(native)} made for C++ kernels, which run on CPUs alone: blocked computes them here. "
            "Leave model.strategy at auto here"
        )
    if native and (why := reason()):
        return (
            f"{_layers(native)} made for C++ kernels, which are not there ({why}): they compute the same, "
            "more slowly. Install g++ or set CXX, then start again"
        )
    if stacked := sum(name == "stacked" for name in chosen.values()):
        if device == "cpu":
            return (
                f"{_layers(stacked)} made for GPUs, and slow on a CPU, with K times the products. A resumed run "
                "keeps its choice; for a new run, leave model.strategy at auto"
            )
        if (lacking := triton_reason(device)) is not None:
            return (
                f"{_layers(stacked)} without Triton's kernels ({lacking}): they compute the same, more slowly. "
                "Install triton and a C compiler, then start again"
            )
    return None


def _layers(count: int) -> str:
    return "1 dynamic convolution is" if count == 1 else f"{count} dynamic convolutions are"
