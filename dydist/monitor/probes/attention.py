"""Statistics of attention over kernels: entropy, shares, dead kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dydist.models.attention import Attention
from dydist.records import LayerAttention

DEAD_BELOW = 0.05
"""A kernel is dead if its mean share is below this fraction of an equal share, 1/K."""


@dataclass
class _Layer:
    name: str
    attention: Attention
    kernels: int
    seen: list[Tensor] = field(default_factory=list)


class AttentionStatistics:
    """Sums over the images of all forward passes between `begin` and `end`, on the device, without synchronizing.

    Forward hooks are registered only between the two. Weights that do not sum to one (sigmoid and l1 attention) are
    first divided by their sum, without their signs. The sums of several processes may be added before `summarise`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [
            _Layer(name.rpartition(".")[0] or "model", module, module.fc2.out_features)
            for name, module in model.named_modules()
            if isinstance(module, Attention)
        ]
        self._widest = max((layer.kernels for layer in self._layers), default=0)
        self._handles: list[RemovableHandle] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The dynamic layers, in the network's order."""
        return tuple(layer.name for layer in self._layers)

    @property
    def size(self) -> int:
        """Length of what `end` returns: for each layer [images, entropy in nats, K deviations, K squared ones].

        A deviation is a share minus 1/K, so that float32 also represents small spreads.
        """
        return len(self._layers) * (2 + 2 * self._widest)

    def begin(self) -> None:
        """Start recording every attention's output."""
        for layer in self._layers:
            layer.seen.clear()
            self._handles.append(layer.attention.register_forward_hook(_keeper(layer.seen)))

    @torch.no_grad()
    def end(self, device: torch.device) -> Tensor:
        """Stop recording; returns the sums since `begin`, float32 [size]. Zeros for layers without images."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if not self._layers:
            return torch.zeros(0, device=device)
        rows = []
        for layer in self._layers:
            seen = torch.cat(layer.seen) if layer.seen else torch.zeros(0, layer.kernels, device=device)
            rows.append(nn.functional.pad(seen.float(), (0, self._widest - layer.kernels)))
            layer.seen.clear()
        images = torch.tensor([float(len(row)) for row in rows]).to(device, non_blocking=True)
        if len({len(row) for row in rows}) > 1:
            longest = max(len(row) for row in rows)
            rows = [nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows]
        shares = torch.stack(rows).abs()
        shares = shares / shares.sum(2, keepdim=True).clamp_min(1e-30)
        entropy = torch.special.entr(shares).sum((1, 2))
        equal = torch.tensor([1 / layer.kernels for layer in self._layers]).to(device, non_blocking=True)
        there = (shares.sum(2, keepdim=True) > 0).float()  # excludes the padding of a layer with fewer images
        deviations = (shares - equal[:, None, None]) * there
        return torch.cat(
            [images[:, None], entropy[:, None], deviations.sum(1), deviations.square().sum(1)], dim=1
        ).flatten()

    def summarise(self, sums: Sequence[float], similarity: Sequence[float]) -> dict[str, LayerAttention]:
        """Sums ([size], on the host) and each layer's kernel similarity → statistics by layer name."""
        width = 2 + 2 * self._widest
        found: dict[str, LayerAttention] = {}
        for number, (layer, alike) in enumerate(zip(self._layers, similarity, strict=True)):
            images, entropy, *rest = sums[number * width : (number + 1) * width]
            if images == 0:
                continue
            deviation = [value / images for value in rest[: layer.kernels]]
            squares = rest[self._widest : self._widest + layer.kernels]
            share = tuple(1 / layer.kernels + value for value in deviation)
            found[layer.name] = LayerAttention(
                entropy=entropy / images / math.log(layer.kernels) if layer.kernels > 1 else 0.0,
                share=share,
                spread=tuple(
                    math.sqrt(max(0.0, square / images - mean**2))
                    for square, mean in zip(squares, deviation, strict=True)
                ),
                dead=sum(mean < DEAD_BELOW / layer.kernels for mean in share),
                similarity=alike,
            )
        return found


def _keeper(seen: list[Tensor]) -> Any:
    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output.detach().reshape(-1, output.shape[-1]))

    return keep
