"""What an update does to the weights, and how they are distributed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dydist.models.attention import Attention
from dydist.monitor.attention import kernel_similarity

BINS = 64
SAMPLE = 1 << 16
"""A histogram looks at this many values of a tensor at most, evenly spaced."""


class WeightStatistics:
    """Norm of the weights, relative size of one update, similarity of each dynamic layer's kernels."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._dynamic = [m for m in model.modules() if isinstance(getattr(m, "attention", None), Attention)]
        self._before: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the weights before a step."""
        self._before = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def end(self) -> Tensor:
        """[‖w‖, ‖Δw‖ / ‖w‖, similarity of every dynamic layer] after the step, float32 on the device.

        Empty for a network without parameters.
        """
        if not self._parameters:
            return torch.empty(0)
        norm = _total_norm(self._parameters)
        torch._foreach_sub_(self._before, [p.detach() for p in self._parameters])
        update = _total_norm(self._before)
        self._before = []
        alike = [kernel_similarity(layer.weight) for layer in self._dynamic]  # type: ignore[arg-type]
        return torch.stack([norm, update / norm.clamp_min(1e-30), *alike])


def histograms(model: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Distribution of every weight matrix or kernel and of its gradient, by tag: (edges [B+1], counts [B])."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter.numel() == 0:
            continue
        found[f"weights/{name}"] = _histogram(parameter.detach())
        if parameter.grad is not None:
            found[f"gradients/{name}"] = _histogram(parameter.grad)
    return found


def _histogram(values: Tensor) -> tuple[Any, Any]:
    flat = values.reshape(-1)
    sample = flat[:: -(-flat.numel() // SAMPLE)].float().cpu().numpy()
    finite = sample[np.isfinite(sample)]
    counts, edges = np.histogram(finite, bins=BINS)
    return edges.astype(np.float64), counts


def _total_norm(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).float().norm()
