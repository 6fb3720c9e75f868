"""Statistics of the weights and of their updates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dydist.models.attention import Attention

BINS = 30
"""Number of histogram bins: as many as TensorBoard shows."""
SAMPLE = 1 << 13
"""Maximum number of a tensor's values in a histogram."""
UPDATE_SAMPLE = 1 << 15
"""Maximum number of a tensor's values in the norm of an update."""
_RUN = 256


class WeightStatistics:
    """Norm of the weights, relative size of one update, similarity of each dynamic layer's kernels.

    The weights are read once. The norm of an update is that of a sample: a full copy would cost more than everything
    else.
    """

    def __init__(self, model: nn.Module) -> None:
        owners = [m for m in model.modules() if isinstance(getattr(m, "attention", None), Attention)]
        self._dynamic: list[Tensor] = [m.weight for m in owners]  # type: ignore[misc]
        ours = set(map(id, self._dynamic))
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._plain: list[Tensor] = [p for p in self._parameters if id(p) not in ours]
        self._before: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Copy a sample of the weights before a step."""
        self._before = [sample(p, UPDATE_SAMPLE).clone() for p in self._parameters]

    @torch.no_grad()
    def end(self) -> Tensor:
        """[‖w‖, ‖Δw‖ / ‖w‖, similarity of every dynamic layer] after the step, float32 on the device.

        Empty for a network without parameters.
        """
        if not self._parameters:
            return torch.empty(0)
        products = [kernel_products(weight) for weight in self._dynamic]
        norms = [product.trace().sqrt() for product in products]
        norms += torch._foreach_norm(self._plain) if self._plain else ()
        norm = torch.stack(norms).float().norm()
        now = [sample(p, UPDATE_SAMPLE) for p in self._parameters]
        shares = [
            math.sqrt(p.numel() / max(1, part.numel())) for p, part in zip(self._parameters, now, strict=True)
        ]
        torch._foreach_sub_(self._before, now)
        changes = torch._foreach_norm(self._before)
        torch._foreach_mul_(changes, shares)
        update = torch.stack(changes).float().norm()
        self._before = []
        return torch.stack([norm, update / norm.clamp_min(1e-30), *map(similarity, products)])


def kernel_products(weight: Tensor) -> Tensor:
    """Inner products between the K kernels of `weight` [K, …], float32 [K, K]."""
    flat = weight.detach().reshape(weight.shape[0], -1).float()
    return flat @ flat.T


def similarity(products: Tensor) -> Tensor:
    """Mean cosine similarity of pairs of K kernels, from their `kernel_products`; a scalar, NaN if K is 1."""
    kernels = products.shape[0]
    if kernels < 2:
        return torch.full((), math.nan, device=products.device)
    scale = products.diagonal().clamp_min(1e-30).rsqrt()
    cosines = products * scale * scale[:, None]
    return (cosines.sum() - cosines.trace()) / (kernels * (kernels - 1))


def sample(values: Tensor, most: int) -> Tensor:
    """All values of a tensor, or about `most` of them in evenly spaced runs of 256 neighbours. A view."""
    flat = values.detach().reshape(-1)
    if flat.numel() <= most:
        return flat
    runs = flat[: flat.numel() // _RUN * _RUN].view(-1, _RUN)
    return runs[:: -(-flat.numel() // most)]


def histograms(model: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Histograms of each weight matrix or kernel and of its gradient, by tag: (edges [B+1], counts [B])."""
    looked_at: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter.numel() == 0:
            continue
        looked_at[f"weights/{name}"] = sample(parameter, SAMPLE)
        if parameter.grad is not None:
            looked_at[f"gradients/{name}"] = sample(parameter.grad, SAMPLE)
    if not looked_at:
        return {}
    host = torch.cat([part.reshape(-1).float() for part in looked_at.values()]).cpu().numpy()  # one wait
    parts = np.split(host, np.cumsum([part.numel() for part in looked_at.values()])[:-1])
    return {tag: _histogram(part) for tag, part in zip(looked_at, parts, strict=True)}


def _histogram(values: np.ndarray) -> tuple[Any, Any]:
    counts, edges = np.histogram(values[np.isfinite(values)], bins=BINS)
    return edges.astype(np.float64), counts
