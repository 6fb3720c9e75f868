"""Initialization: the *mixed* kernel has He variance, and all kernels have equal weights at the start.

A dynamic layer computes with W̃ = Σ_k π_k W_k. For independent W_k of variance σ², W̃ has variance σ² Σ_k π_k²: σ²/K
under a uniform softmax, σ² K/4 under sigmoids at 1/2. So each W_k is drawn with σ² = He variance / Σ_k π_k², where π
is the attention at zero logits. `fc2` starts at zero, so the logits are zero at the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dydist.errors import UserError
from dydist.models.attention import Attention, initial_weight, sum_of_squares


@torch.no_grad()
def reset_attention_(attention: Attention) -> None:
    """He initialization of `fc1` (fan in, ReLU); zeros in all else, which make the attention uniform."""
    nn.init.kaiming_normal_(attention.fc1.weight, mode="fan_in", nonlinearity="relu")
    if attention.norm is not None:
        attention.norm.reset_parameters()
    for head in (attention.fc2, attention.fc_in, attention.fc_out):
        if head is not None:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


@torch.no_grad()
def reset_kernels_(weight: Tensor, *, fan: int, kind: str, spread: float | None = None) -> None:
    """Fill `weight` (K, …) so that the mixed kernel has variance 2/`fan` (He et al., arXiv:1502.01852).

    With `spread` None the kernels are independent. Else they are one kernel plus perturbations: `kernels_from_`.
    """
    if spread is None:
        nn.init.normal_(weight, std=math.sqrt(2.0 / fan / sum_of_squares(kind, weight.shape[0])))
        return
    if not 0 < spread < math.inf:
        raise UserError(f"model.spread: {spread} is not allowed; it must be a number above 0, or null")
    one = nn.init.normal_(torch.empty_like(weight[0]), std=math.sqrt(2.0 / fan))
    kernels_from_(weight, one, kind=kind, spread=spread)


@torch.no_grad()
def kernels_from_(weight: Tensor, pretrained: Tensor, *, kind: str, spread: float = 0.1) -> None:
    """Fill `weight` (K, …) with kernels whose mixture at zero logits is `pretrained` (…), up to rounding.

    K equal kernels would always get equal gradients. So each gets a perturbation of `spread` times the pretrained
    weights' root mean square (times √(1 - 1/K)); the perturbations of a weight sum to zero over the kernels.
    """
    kernels = weight.shape[0]
    noise = torch.randn_like(weight)
    noise -= noise.mean(0, keepdim=True)
    scale = 1.0 / (kernels * initial_weight(kind, kernels))
    root_mean_square = pretrained.detach().to(weight.dtype).square().mean().sqrt()
    weight.copy_(scale * (pretrained.to(weight) + spread * root_mean_square * noise))


def fan_out(shape: Sequence[int], groups: int) -> int:
    """Fan out of one input value, for kernels of shape (K, out, in/groups, k, k)."""
    return shape[1] * math.prod(shape[3:]) // groups
