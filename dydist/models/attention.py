"""Attention over kernels: the weights with which the K kernels are mixed for each image."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dydist.errors import UserError

AttentionKind = Literal["softmax", "sigmoid"]


def initial_weight(kind: str, kernels: int) -> float:
    """π_k at zero logits: 1/K for softmax, 1/2 for sigmoid."""
    return 1.0 / kernels if kind == "softmax" else 0.5


def sum_of_squares(kind: str, kernels: int) -> float:
    """Σ_k π_k² at zero logits: 1/K for softmax, K/4 for sigmoid."""
    return kernels * initial_weight(kind, kernels) ** 2


class Attention(nn.Module):
    """Squeeze-and-excitation attention over K kernels (Chen et al., arXiv:1912.03458, figure 3).

    Mean over all positions → `fc1` without bias → ReLU → `fc2` → softmax(logits / T). With
    `kind="sigmoid"` the kernels are weighted independently, by sigmoid(logits / T), as in CondConv
    (arXiv:1904.04971).

    The hidden layer has int(in·reduction) + 1 units, or K if the input is an RGB image (in = 3). `temperature` is a
    scalar buffer that is not in the state_dict; `set_temperature` sets it.
    """

    temperature: Tensor

    def __init__(
        self, in_features: int, kernels: int, *, reduction: float = 0.25, kind: AttentionKind = "softmax"
    ) -> None:
        super().__init__()
        if kind not in ("softmax", "sigmoid"):
            raise UserError(f"model.attention: {kind!r} is not known; use softmax or sigmoid")
        if kernels < 1:
            raise UserError(f"model.kernels: {kernels} is not allowed; a dynamic layer needs at least 1")
        hidden = kernels if in_features == 3 else int(in_features * reduction) + 1
        self.kind: AttentionKind = kind
        self.fc1 = nn.Linear(in_features, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, kernels)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Kernel weights π [..., K] for `pooled` features [..., in]; with softmax they sum to one."""
        logits = self.fc2(torch.relu(self.fc1(pooled))) / self.temperature
        return torch.softmax(logits, dim=-1) if self.kind == "softmax" else torch.sigmoid(logits)

    @property
    def uniform_weight_square_sum(self) -> float:
        """Σ_k π_k² at the initial logits: how fast the mixed kernel learns, as a share of a static kernel."""
        return sum_of_squares(self.kind, self.fc2.out_features)

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


def set_temperature(module: nn.Module, temperature: float) -> None:
    """Set the softmax temperature of every attention in `module`, in place, so that nothing is recompiled.

    `temperature` must be above zero; infinity means equal weights. Raises UserError otherwise.
    """
    if not temperature > 0:
        raise UserError(f"temperature: {temperature} is not allowed; it must be above 0 (1 is plain softmax)")
    for part in module.modules():
        if isinstance(part, Attention):
            part.temperature.fill_(temperature)
