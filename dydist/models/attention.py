"""Attention over kernels: the weights with which the K kernels are mixed for each image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dydist.errors import UserError
from dydist.models.batchnorm import ShardBatchNorm2d

AttentionKind = Literal["softmax", "sigmoid", "l1"]
AttentionNorm = Literal["none", "batch"]
SMALLEST_SUM = 1e-3
"""With `l1`, weights are divided by Σ_k |1 + z_k/T|, or by this constant if the sum is smaller."""


def initial_weight(kind: str, kernels: int) -> float:
    """π_k at zero logits: 1/2 for sigmoid, else 1/K."""
    return 0.5 if kind == "sigmoid" else 1.0 / kernels


def sum_of_squares(kind: str, kernels: int) -> float:
    """Σ_k π_k² at zero logits: K/4 for sigmoid, else 1/K."""
    return kernels * initial_weight(kind, kernels) ** 2


class Attention(nn.Module):
    """Squeeze-and-excitation attention over K kernels (Chen et al., arXiv:1912.03458, figure 3).

    Mean over all positions → `fc1` without bias → `norm`, if there is one → ReLU → `fc2` → logits z → weights π.
    `temperature` T is a scalar buffer that is not in the state_dict; `set_temperature` sets it.

    Args:
        in_features: Channels of the input.
        kernels: K.
        reduction: The hidden layer has int(in·reduction) + 1 units, or K if the input is an RGB image (in = 3).
        min_hidden: The minimum number of units of the hidden layer (16 in ODConv's code, arXiv:2209.07947).
        norm: "batch": batch norm before the ReLU, as in ODConv's code; it needs several images a shard in training.
        kind: "softmax": softmax(z/T). "sigmoid": sigmoid(z/T), each kernel by itself, as in CondConv
            (arXiv:1904.04971). "l1": (1 + z/T) / Σ_k |1 + z_k/T|, which may be negative: KernelWarehouse's
            normalisation (arXiv:2306.00371, section 3.3) with 1 added, so that zero logits mean equal weights.
        scales: Numbers of input and of output channels for which the method `scales` computes factors; 0: none.

    Raises:
        UserError: a value is not allowed.
    """

    temperature: Tensor

    def __init__(
        self,
        in_features: int,
        kernels: int,
        *,
        reduction: float = 0.25,
        kind: AttentionKind = "softmax",
        norm: AttentionNorm = "none",
        min_hidden: int = 1,
        scales: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        if kind not in get_args(AttentionKind):
            raise UserError(f"model.attention: {kind!r} is not known; use softmax, sigmoid or l1")
        if norm not in get_args(AttentionNorm):
            raise UserError(f"model.attention_norm: {norm!r} is not known; use none or batch")
        if min_hidden < 1:
            raise UserError(f"model.attention_min_hidden: {min_hidden} is not allowed; use 1 or more")
        if kernels < 1:
            raise UserError(f"model.kernels: {kernels} is not allowed; a dynamic layer needs at least 1")
        hidden = max(min_hidden, kernels if in_features == 3 else int(in_features * reduction) + 1)
        self.kind: AttentionKind = kind
        self.fc1 = nn.Linear(in_features, hidden, bias=False)
        self.norm = ShardBatchNorm2d(hidden) if norm == "batch" else None
        self.fc2 = nn.Linear(hidden, kernels)
        self.fc_in, self.fc_out = (nn.Linear(hidden, count) if count else None for count in scales)
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def hidden(self, pooled: Tensor) -> Tensor:
        """The hidden layer's output [..., hidden] for `pooled` features [..., in]."""
        out = self.fc1(pooled)
        return torch.relu(out if self.norm is None else _normalised(self.norm, out))

    def forward(self, pooled: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Kernel weights π [..., K] for `pooled` features [..., in]; with softmax they sum to one.

        `hidden`: what `hidden(pooled)` returned, if it is known.
        """
        logits = self.fc2(self.hidden(pooled) if hidden is None else hidden) / self.temperature
        if self.kind == "softmax":
            return torch.softmax(logits, dim=-1)
        if self.kind == "sigmoid":
            return torch.sigmoid(logits)
        shares = 1 + logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights: Tensor = shares / shares.abs().sum(-1, keepdim=True).clamp_min(SMALLEST_SUM)
        return weights.to(logits.dtype)

    def scales(self, hidden: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Factors of the input's and of the output's channels, [..., channels], for `hidden` [..., hidden].

        2·sigmoid(z/T): one at zero logits, between zero and two. ODConv (arXiv:2209.07947, section 3.2) has
        sigmoid(z/T); the factor 2 can be compensated by the kernels.
        """
        heads = (self.fc_in, self.fc_out)
        inputs, outputs = (
            None if head is None else 2 * torch.sigmoid(head(hidden) / self.temperature) for head in heads
        )
        return inputs, outputs

    @property
    def uniform_weight_square_sum(self) -> float:
        """Σ_k π_k² at the initial logits: how fast the mixed kernel learns, relative to a static kernel."""
        return sum_of_squares(self.kind, self.fc2.out_features)

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


def _normalised(norm: ShardBatchNorm2d, hidden: Tensor) -> Tensor:
    """`norm` of `hidden` [N, ..., H], or of one vector [H], over all but the last dimension."""
    if hidden.ndim == 1:
        return _normalised(norm, hidden[None])[0]
    channels = hidden.movedim(-1, 1)
    out: Tensor = norm(channels[..., None, None].flatten(2, -2))
    return out.reshape(channels.shape).movedim(1, -1)


def set_temperature(module: nn.Module, temperature: float) -> None:
    """Set the softmax temperature of every attention in `module`, in place, so that nothing is recompiled.

    `temperature` must be above zero; infinity means equal weights. Raises UserError otherwise.
    """
    if not temperature > 0:
        raise UserError(f"temperature: {temperature} is not allowed; it must be above 0 (1 is plain softmax)")
    for part in module.modules():
        if isinstance(part, Attention):
            part.temperature.fill_(temperature)
