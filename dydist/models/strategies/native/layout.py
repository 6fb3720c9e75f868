"""The taps of all kernels apart, and back together: copies with a stride of a few values, which torch does slowly."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from dydist.models.strategies.native.build import library

_NAMES = {torch.float32: "f32", torch.float64: "f64"}


def split_taps(weight: Tensor, chosen: Sequence[int]) -> Tensor:
    """Contiguous `weight` [..., kh, kw] as contiguous [len(chosen), ...]: the taps of these row-major indices."""
    apart = weight.new_empty(len(chosen), *weight.shape[:-2])
    if not _native("split_taps", weight, apart, chosen, weight):
        apart.copy_(weight.flatten(-2)[..., list(chosen)].movedim(-1, 0))
    return apart


def join_taps(apart: Tensor, chosen: Sequence[int], like: Tensor) -> Tensor:
    """The way back: contiguous `apart` [len(chosen), ...] as `like`'s shape [..., kh, kw]; other taps are zero."""
    together = like.new_empty(like.shape)
    if not _native("join_taps", apart, together, chosen, like):
        together.zero_()
        together.flatten(-2)[..., list(chosen)] = apart.movedim(0, -1)
    return together


def _native(name: str, source: Tensor, target: Tensor, chosen: Sequence[int], weight: Tensor) -> bool:
    """Whether the C++ copy could be used; then `target` is filled."""
    loaded = library()
    if loaded is None or weight.device.type != "cpu" or weight.dtype not in _NAMES:
        return False
    taps = weight.shape[-2] * weight.shape[-1]
    getattr(loaded, f"{name}_{_NAMES[weight.dtype]}")(
        ctypes.c_void_p(source.data_ptr()),
        ctypes.c_long(weight.numel() // taps),
        ctypes.c_long(taps),
        (ctypes.c_long * len(chosen))(*chosen),
        ctypes.c_long(len(chosen)),
        ctypes.c_void_p(target.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )
    return True
