"""`triton`: GPU kernels that mix a tile of a kernel in registers and multiply it there. Opt-in: not yet timed on a GPU.

What `fused` does on a CPU: no image's kernel is ever in memory. A weight and image cost K multiply-adds for each tile
of up to 64 pixels, and one a pixel. Values are tested under Triton's interpreter. Needs the package `triton`, which
comes with torch for NVIDIA GPUs; without it, on other devices, in float64 and for more than 32 kernels `blocked`
computes the same. No sum depends on how threads are scheduled, so the same GPU gives the same bits again.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from dydist.models.strategies import blocked
from dydist.models.strategies.custom import operator
from dydist.models.strategies.problem import Geometry

MOST_KERNELS = 32
"""Beyond so many a tile of all of them would not fit a GPU's shared memory."""
MOST_IMAGES = 65_535
"""A grid's third axis is no longer."""


def available(device: str) -> bool:
    """Whether the kernels run on tensors of a device type: on NVIDIA's GPUs, and under the interpreter on CPUs."""
    return device == ("cpu" if _interpreted() else "cuda") and torch.version.hip is None and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton was told to interpret: TRITON_INTERPRET=1 before the first use."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _can_run(x: Tensor, weight: Tensor, size: tuple[int, int]) -> bool:
    """Whether the kernels take these, for an output of `size` pixels. The interpreter has no bfloat16."""
    dtypes = [torch.float32, torch.float16] + ([] if _interpreted() else [torch.bfloat16])
    fits = (
        0 < x.shape[0] <= MOST_IMAGES and weight.shape[0] <= MOST_KERNELS and x.numel() > 0 and min(size) > 0
    )
    return fits and x.dtype in dtypes and available(x.device.type)


def _forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    size = geometry.output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))
    if not _can_run(x, weight, size):
        return blocked.forward(x, attention, weight, geometry)
    from dydist.models.strategies import triton_kernels

    with torch.cuda.device_of(x):  # Triton launches on the current device, whatever that of its arguments
        return triton_kernels.forward(x, attention, weight, geometry, size)


def _backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    if not _can_run(x, weight, (grad.shape[2], grad.shape[3])):
        return blocked.backward(grad, x, attention, weight, geometry, wanted)
    from dydist.models.strategies import triton_kernels

    grad_x, grad_attention, grad_weight = (x.new_empty(0) for _ in range(3))
    with torch.cuda.device_of(x):
        if wanted[0]:
            grad_x = triton_kernels.input_gradient(grad, x, attention, weight, geometry)
        if wanted[1]:
            grad_attention, grad_weight = triton_kernels.kernel_gradient(grad, x, attention, weight, geometry)
    return grad_x, grad_attention, grad_weight


triton = operator("triton", _forward, _backward)
