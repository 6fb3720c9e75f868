"""Splits kernels into taps, and joins them: copies with a stride of a few values, which are slow in torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dydist.models.strategies.native.build import library
from dydist.models.strategies.native.call import call, supports_dtype


def split_taps(weight: Tensor, chosen: Sequence[int]) -> Tensor:
    """Copy the taps with row-major indices `chosen` of contiguous `weight` [..., kh, kw] to [len(chosen), ...]."""
    apart = weight.new_empty(len(chosen), *weight.shape[:-2])
    if not _native("split_taps", weight, apart, chosen, weight):
        apart.copy_(weight.flatten(-2)[..., list(chosen)].movedim(-1, 0))
    return apart


def join_taps(apart: Tensor, chosen: Sequence[int], like: Tensor) -> Tensor:
    """The inverse: contiguous `apart` [len(chosen), ...] to `like`'s shape [..., kh, kw]; other taps are zero."""
    together = like.new_empty(like.shape)
    if not _native("join_taps", apart, together, chosen, like):
        together.zero_()
        together.flatten(-2)[..., list(chosen)] = apart.movedim(0, -1)
    return together


def _native(name: str, source: Tensor, target: Tensor, chosen: Sequence[int], weight: Tensor) -> bool:
    """Fill `target` with the C++ copy; returns False if that is not available."""
    if weight.device.type != "cpu" or not supports_dtype(weight.dtype) or library() is None:
        return False
    taps = weight.shape[-2] * weight.shape[-1]
    call(name, weight.dtype, source, weight.numel() // taps, taps, chosen, len(chosen), target)
    return True
