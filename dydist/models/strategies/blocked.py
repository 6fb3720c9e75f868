"""`blocked`: mixes kernels for a block of images, runs one grouped convolution, and discards the kernels.

As `grouped`, but memory is bounded: only the kernels of one block exist at a time. The backward pass recomputes them.
With dŴ_n the gradient of image n's mixed kernel, the gradient of kernel k is Σ_n π_nk dŴ_n and that of π_nk is ⟨W_k,
dŴ_n⟩: two matrix products per block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dydist.models.strategies.custom import operator
from dydist.models.strategies.problem import Geometry

BLOCK_BYTES = 8 << 20
"""Bytes of a block's mixed kernels: small enough to stay in the last-level cache between mixing and use."""


def _blocks(x: Tensor, weight: Tensor) -> list[slice]:
    """Slices of images whose mixed kernels fit `BLOCK_BYTES`; at least one image each."""
    kernel_bytes = weight[0].numel() * weight.element_size()
    size = max(1, BLOCK_BYTES // max(1, kernel_bytes))
    return [slice(start, start + size) for start in range(0, x.shape[0], size)]


def _mixed(attention: Tensor, weight: Tensor) -> Tensor:
    """Kernels [n·out, C/groups, kh, kw] of n images."""
    return (attention @ weight.flatten(1)).view(-1, *weight.shape[2:])


def forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The convolution without autograd; see `custom.Forward`."""
    size = geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))
    out = x.new_empty(x.shape[0], weight.shape[1], *size)
    for block in _blocks(x, weight):
        part = x[block]
        images = part.shape[0]
        out[block] = F.conv2d(
            part.view(1, -1, *part.shape[2:]),
            _mixed(attention[block], weight),
            None,
            *geometry[:3],
            images * geometry.groups,
        ).view(images, *out.shape[1:])
    return out


def backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients; see `custom.Backward`."""
    for_x, for_kernels = wanted
    grad_x = torch.empty_like(x) if for_x else x.new_empty(0)
    grad_attention = torch.empty_like(attention) if for_kernels else x.new_empty(0)
    grad_weight = torch.zeros_like(weight) if for_kernels else x.new_empty(0)
    flat = weight.flatten(1)
    for block in _blocks(x, weight):
        part = x[block]
        images = part.shape[0]
        block_x, block_kernels, _ = torch.ops.aten.convolution_backward(
            grad[block].view(1, -1, *grad.shape[2:]),
            part.view(1, -1, *part.shape[2:]),
            _mixed(attention[block], weight),
            None,
            *geometry[:3],
            False,
            (0, 0),
            images * geometry.groups,
            (for_x, for_kernels, False),
        )
        if for_x:
            grad_x[block] = block_x.view(part.shape)
        if for_kernels:
            by_image = block_kernels.reshape(images, -1)
            grad_weight.view(flat.shape).addmm_(attention[block].T, by_image)
            torch.mm(by_image, flat.T, out=grad_attention[block])
    return grad_x, grad_attention, grad_weight


blocked = operator("blocked", forward, backward)
