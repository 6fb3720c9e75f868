"""`fused`: C++ kernels that mix a tile of a kernel and use it while it is in first-level cache.

For K kernels and P output pixels this takes K + P multiply-adds per weight and image; mixing outputs takes K·P, an
ordinary convolution P. Runs on the CPU in float32 and float64, and in float32 for half precision. Without a compiler,
or on another device, `blocked` computes the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dydist.models.strategies import blocked
from dydist.models.strategies.custom import operator
from dydist.models.strategies.native import library
from dydist.models.strategies.native.call import call, supports_dtype
from dydist.models.strategies.problem import Geometry


def available() -> bool:
    """Whether the C++ kernels are available. The first call builds them, which takes seconds."""
    return library() is not None


def forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if not can_run(x, geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))):
        return blocked.forward(x, attention, weight, geometry)
    return run_forward("forward", x, attention, weight, geometry)


def backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    if not can_run(x, (grad.shape[2], grad.shape[3])):
        return blocked.backward(grad, x, attention, weight, geometry, wanted)
    kernels = ("input_gradient", "kernel_gradient")
    return run_backward(kernels, grad, x, attention, weight, geometry, wanted)


def run_forward(kernel: str, x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The output, from the C++ function `kernel`; in float32 if it does not support x's dtype."""
    if not supports_dtype(x.dtype):
        return run_forward(kernel, x.float(), attention.float(), weight.float(), geometry).to(x.dtype)
    size = geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))
    out = x.new_empty(x.shape[0], weight.shape[1], *size)
    call(kernel, x.dtype, _sizes(x, weight, geometry, size), x, attention, weight, out)
    return out


def run_backward(
    kernels: tuple[str, str],
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, and of attention and weight, from the C++ functions `kernels`; dtypes as in `run_forward`."""
    if not supports_dtype(x.dtype):
        single = (grad.float(), x.float(), attention.float(), weight.float())
        made = run_backward(kernels, *single, geometry, wanted)
        return made[0].to(x.dtype), made[1].to(x.dtype), made[2].to(x.dtype)
    for_input, for_kernels = kernels
    grad_x, grad_attention, grad_weight = (x.new_empty(0) for _ in range(3))
    sizes = _sizes(x, weight, geometry, (grad.shape[2], grad.shape[3]))
    if wanted[0]:
        grad_x = torch.empty_like(x)
        call(for_input, x.dtype, sizes, grad, attention, weight, grad_x)
    if wanted[1]:
        grad_attention, grad_weight = torch.empty_like(attention), torch.empty_like(weight)
        call(for_kernels, x.dtype, sizes, grad, x, attention, weight, grad_weight, grad_attention)
    return grad_x, grad_attention, grad_weight


def can_run(x: Tensor, size: tuple[int, int]) -> bool:
    """Whether the C++ kernels support x, for an output of `size` pixels."""
    return x.device.type == "cpu" and x.shape[0] > 0 and min(size) > 0 and available()


def _sizes(x: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, int]) -> list[int]:
    """The fields of struct `Sizes` in native/vectors.h."""
    groups = geometry.groups
    return [
        *(x.shape[0], weight.shape[0], groups, weight.shape[2], weight.shape[1] // groups, *x.shape[2:]),
        *(*weight.shape[3:], *geometry.stride, *geometry.padding, *geometry.dilation, *size),
    ]


fused = operator("fused", forward, backward)
