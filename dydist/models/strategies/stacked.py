"""`stacked`: one convolution of all K kernels with K copies of the input, each scaled by its kernel's attention.

Σ_k π_k (W_k ∗ x) = [W_1 … W_K] ∗ [π_1 x; …; π_K x]: a library convolution sums over kernels as over channels. It
costs K times the static convolution, as `mix` does, but never stores the K outputs, and saves only its inputs for the
backward pass. It suits GPUs, whose matrix units make K-fold products cheaper than mixing kernels
(docs/notes/performance.md). All K-fold tensors are channels-last, as these units require. With Triton (part of torch
for NVIDIA GPUs; needs a C compiler), scaling and its gradient are one pass over memory each; otherwise several torch
operations.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from dydist.models.strategies.custom import operator
from dydist.models.strategies.problem import Geometry

MOST_IMAGES = 65_535
"""CUDA's limit on a grid's third dimension."""


def triton_reason(device: torch.device | str) -> str | None:
    """Why Triton's kernels do not run on a device, or None if they do: on NVIDIA GPUs, and on CPUs with its
    interpreter (TRITON_INTERPRET=1). Each GPU is tested once per process.
    """
    device = torch.device(device)
    if not _installed():
        return "the package triton is not installed"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return "they are for NVIDIA GPUs"
    return _tried(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _tried(index: int) -> str | None:
    """The error of a first launch on a GPU, or None: it needs a compiler, headers and a writable folder."""
    from dydist.models.strategies import stacked_kernels

    try:
        with torch.cuda.device(index):
            x = torch.ones(1, 1, 1, 1, device=f"cuda:{index}")
            stacked_kernels.scale(x, x.view(1, 1), 1)
    except Exception as error:  # regardless of the cause, torch can compute the result
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    return None


def _triton_runs(x: Tensor) -> bool:
    """Whether Triton's kernels support `x`."""
    fits = x.dtype != torch.float64 and 0 < x.shape[0] <= MOST_IMAGES and x.numel() > 0
    return fits and triton_reason(x.device) is None


def _scale(x: Tensor, attention: Tensor, groups: int) -> Tensor:
    """x [N, C, H, W] → [N, K·C, H, W], channels last; within a group ordered by kernel."""
    if _triton_runs(x):
        from dydist.models.strategies import stacked_kernels

        with torch.cuda.device_of(x):  # Triton launches on the current device, not on that of its arguments
            return stacked_kernels.scale(x, attention, groups)
    each: Tensor = x.unflatten(1, (groups, 1, -1)) * attention[:, None, :, None, None, None]
    return each.flatten(1, 3).contiguous(memory_format=torch.channels_last)


def _gather(each: Tensor, x: Tensor, attention: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The gradients of x and attention from the gradient of `_scale`'s result."""
    if _triton_runs(x):
        from dydist.models.strategies import stacked_kernels

        with torch.cuda.device_of(x):
            return stacked_kernels.gather(each, x, attention, groups)
    apart = each.unflatten(1, (groups, attention.shape[1], -1))
    grad_x = torch.einsum("ngkchw,nk->ngchw", apart, attention).reshape(x.shape)
    return grad_x, torch.einsum("ngkchw,ngchw->nk", apart, x.unflatten(1, (groups, -1))).contiguous()


def _stack(weight: Tensor) -> Tensor:
    """Kernels [K, out, C/groups, kh, kw] → [out, K·C/groups, kh, kw], channels last."""
    return weight.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)


def _forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    scaled = _scale(x, attention, geometry.groups)
    return F.conv2d(scaled, _stack(weight), None, *geometry).contiguous()


def _backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    for_kernels = wanted[1]
    each, stacked, _ = torch.ops.aten.convolution_backward(
        grad.contiguous(memory_format=torch.channels_last),
        _scale(x, attention, geometry.groups),
        _stack(weight),
        None,
        *geometry[:3],
        False,
        (0, 0),
        geometry.groups,
        (True, for_kernels, False),
    )
    each = each.contiguous(memory_format=torch.channels_last)
    grad_x, grad_attention = _gather(each, x, attention, geometry.groups)
    if not for_kernels:
        return grad_x, x.new_empty(0), x.new_empty(0)
    apart = stacked.unflatten(1, (weight.shape[0], -1)).transpose(0, 1).contiguous()
    return grad_x if wanted[0] else x.new_empty(0), grad_attention, apart


stacked = operator("stacked", _forward, _backward)
