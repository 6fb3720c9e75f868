"""Which strategy each layer of a network takes: by the rule, or as measured on this machine.

A measured choice depends on the machine and on noise, and so do the last bits of a run that uses it: `exact`
reduction takes the rule. Either way the choice is a plain dictionary, which a run records and a resumed run applies.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dydist.errors import UserError
from dydist.models.dynamic_conv import DynamicConv2d
from dydist.models.strategies import NAMES, Geometry, Shape, check_strategy, dynamic_conv2d, rule
from dydist.models.strategies.native import build, cache_folder, reason

MEASURED_IMAGES = 32
"""At most so many images are used to measure: ratios between strategies hardly change beyond."""
HOPELESS = 1.5
"""A strategy that takes so many times the best in its first pass is not measured again."""


def choose_strategies(
    model: nn.Module,
    sample_shape: Sequence[int],
    measure: bool,
    *,
    cache: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, str]:
    """Name of the strategy for each dynamic convolution of `model`, by the layer's name.

    `sample_shape` is a batch's [N, C, H, W]. With `measure`, forward and backward of each strategy are timed once
    for each different layer, and kept in `cache` (default: a file in the user's cache folder) by hardware and
    version; otherwise the rule decides, by shape alone. Layers whose strategy is not `auto` keep it. Weights,
    statistics and torch's generators are left as they were.

    In a distributed run let one process measure and send its answer to the others: all must choose alike.
    """
    inputs = _input_shapes(model, sample_shape)
    table = _Table(cache or cache_folder() / "strategies.json") if measure else None
    chosen = {}
    for name, (layer, shape) in inputs.items():
        if layer.strategy != "auto":
            chosen[name] = layer.strategy
        elif table is None:
            chosen[name] = rule(_shape(layer, shape), layer.weight.device.type)
        else:
            chosen[name] = table.best(layer, shape, clock)
    return chosen


def apply_strategies(model: nn.Module, chosen: Mapping[str, str]) -> None:
    """Give each named layer its strategy. Raises UserError for a layer or strategy that is not there."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, DynamicConv2d)}
    for name, strategy in chosen.items():
        if name not in layers:
            raise UserError(
                f"strategies: {name!r} is not a dynamic convolution of this network, which has "
                f"{', '.join(layers) or 'none'}; choose anew"
            )
        layers[name].strategy = check_strategy(strategy)


def _input_shapes(
    model: nn.Module, sample_shape: Sequence[int]
) -> dict[str, tuple[DynamicConv2d, tuple[int, int, int, int]]]:
    """Each dynamic convolution with the [N, C, H, W] that it sees for a batch of `sample_shape`."""
    seen: dict[str, tuple[DynamicConv2d, tuple[int, int, int, int]]] = {}
    images = sample_shape[0]

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, DynamicConv2d)
            _, channels, height, width = inputs[0].shape
            seen[name] = (layer, (images, channels, height, width))

        return hook

    handles = [
        part.register_forward_pre_hook(note(name))
        for name, part in model.named_modules()
        if isinstance(part, DynamicConv2d)
    ]
    modes = {part: part.training for part in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *sample_shape[1:], dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return seen


def _shape(layer: DynamicConv2d, shape: tuple[int, int, int, int]) -> Shape:
    return Shape.of(torch.empty(shape, device="meta"), layer.weight, _geometry(layer))


def _geometry(layer: DynamicConv2d) -> Geometry:
    return Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)


class _Table:
    """Seconds of each strategy by layer shape, kept on disk for this hardware and these versions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = _machine()
        self.known: dict[str, Any] = self._read().get(self.machine, {})

    def best(self, layer: DynamicConv2d, shape: tuple[int, int, int, int], clock: Callable[[], float]) -> str:
        key = json.dumps([*shape, list(layer.weight.shape), _geometry(layer), str(layer.weight.dtype)])
        if key not in self.known:
            self.known[key] = _time_all(layer, shape, clock)
            self._write()
        seconds = self.known[key]
        return min(seconds, key=lambda name: (seconds[name], name))

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):  # Missing, or torn: measure again.
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Put what is known beside other machines' entries, whole or not at all. A full disk costs only time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_text(json.dumps(self._read() | {self.machine: self.known}, indent=1, sort_keys=True))
            os.replace(draft, self.path)
        except OSError:
            return


def _machine() -> str:
    """Everything that times depend on, beside the shape."""
    parts = [build.cpu(), torch.__version__, str(torch.get_num_threads()), reason(), build.SOURCE.read_text()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _time_all(
    layer: DynamicConv2d, shape: tuple[int, int, int, int], clock: Callable[[], float]
) -> dict[str, float]:
    """Least seconds of forward and backward by strategy; those that are far behind are tried once."""
    device, dtype = layer.weight.device, layer.weight.dtype
    generator = torch.Generator().manual_seed(0)
    images = min(shape[0], MEASURED_IMAGES)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype).requires_grad_()

    x = draw(images, *shape[1:])
    attention = torch.softmax(draw(images, layer.kernels), 1).detach().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    gradient = None

    def once(strategy: str) -> float:
        nonlocal gradient
        _wait(device)
        began = clock()
        out = dynamic_conv2d(x, attention, weight, None, *_geometry(layer), strategy=strategy)
        gradient = torch.ones_like(out) if gradient is None else gradient
        torch.autograd.grad(out, (x, attention, weight), gradient)
        _wait(device)
        return clock() - began

    names = [
        name for name in NAMES if name not in ("auto", "grouped")
    ]  # `blocked` is `grouped` with less memory.
    for name in names:
        once(name)  # Builds, caches and page faults of a first pass do not count.
    seconds = {name: once(name) for name in names}
    limit = HOPELESS * min(seconds.values())
    for name in names:
        if seconds[name] <= limit:
            seconds[name] = min(seconds[name], once(name), once(name))
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
