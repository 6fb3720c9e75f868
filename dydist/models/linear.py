"""The dynamic perceptron: a linear layer that mixes its weights for each input vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dydist.models.attention import Attention, AttentionKind, AttentionNorm
from dydist.models.initialization import reset_attention_, reset_kernels_


class DynamicLinear(nn.Module):
    """y = W̃ x + b̃ with W̃ = Σ π_k(x) W_k and b̃ = Σ π_k(x) b_k (Chen et al., arXiv:1912.03458, eq. 2).

    One attention, computed from the input vector, weights both. `weight` is (K, out, in), `bias` (K, out) or None.
    Each mixed weight would be used only once, so the K outputs are mixed instead, which is cheaper.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        kernels: int = 4,
        reduction: float = 0.25,
        attention: AttentionKind = "softmax",
        attention_norm: AttentionNorm = "none",
        attention_min_hidden: int = 1,
        spread: float | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kernels = in_features, out_features, kernels
        self.spread = spread
        self.attention = Attention(
            in_features,
            kernels,
            reduction=reduction,
            kind=attention,
            norm=attention_norm,
            min_hidden=attention_min_hidden,
        )
        self.weight = nn.Parameter(torch.empty(kernels, out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(kernels, out_features)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from torch's default generator; the mixed weights have He variance (fan in)."""
        reset_attention_(self.attention)
        reset_kernels_(self.weight, fan=self.in_features, kind=self.attention.kind, spread=self.spread)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors [..., in] → [..., out]."""
        attention = self.attention(x)
        bias = None if self.bias is None else self.bias.flatten()
        each = nn.functional.linear(x, self.weight.flatten(0, 1), bias).unflatten(-1, (self.kernels, -1))
        mixed: Tensor = (attention.to(each.dtype).unsqueeze(-2) @ each).squeeze(-2)
        return mixed

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, kernels={self.kernels}"
        )
