"""`winograd`: `fused` as a Winograd convolution, for 3x3 kernels with stride 1.

A tile of 2x2 outputs takes 16 multiply-adds per input channel instead of 36 (F(2x2, 3x3): Lavin and Gray,
arXiv:1509.09308, section 4.1). The transform is linear in the kernel, so the K kernels are transformed once per call
and mixed afterwards: K·16/9 + H·W·4/9 multiply-adds per weight and image instead of K + H·W. From 8x8 pixels on, this
is fewer than an ordinary direct convolution needs. The rounding error is a few times that of a direct convolution, as
in any library's Winograd convolution. `fused` computes unsupported cases.
"""

from __future__ import annotations

from torch import Tensor

from dydist.models.strategies import fused
from dydist.models.strategies.custom import operator
from dydist.models.strategies.problem import Geometry, Pair

SMALL_MAP = 36
"""Below this many output pixels, gradients of kernels are summed as in `fused`: adding 16 values instead of 9 to K
kernels costs more than Winograd's products save."""


def is_supported(kernel: Pair, geometry: Geometry) -> bool:
    """Whether a convolution is supported: 3x3, stride and dilation 1, padding of at most two pixels."""
    plain = geometry.stride == (1, 1) and geometry.dilation == (1, 1) and geometry.groups == 1
    return plain and kernel == (3, 3) and max(geometry.padding) <= 2


def _forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    size = geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))
    if not _can_run(x, weight, geometry, size):
        return fused.forward(x, attention, weight, geometry)
    return fused.run_forward("winograd_forward", x, attention, weight, geometry)


def _backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    size = (grad.shape[2], grad.shape[3])
    if not _can_run(x, weight, geometry, size):
        return fused.backward(grad, x, attention, weight, geometry, wanted)
    of_kernels = "kernel_gradient" if size[0] * size[1] < SMALL_MAP else "winograd_kernel_gradient"
    kernels = ("winograd_input_gradient", of_kernels)
    return fused.run_backward(kernels, grad, x, attention, weight, geometry, wanted)


def _can_run(x: Tensor, weight: Tensor, geometry: Geometry, size: Pair) -> bool:
    return is_supported((weight.shape[3], weight.shape[4]), geometry) and fused.can_run(x, size)


winograd = operator("winograd", _forward, _backward)
