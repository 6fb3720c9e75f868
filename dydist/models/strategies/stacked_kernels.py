"""Triton kernels of `stacked`: from [N, C, H, W] to K scaled copies with channels last, and the gradient.

Layouts: x [N, C, P] with P = H·W pixels, attention [N, K], stacked [N, P, groups · K · C/groups]. Sums are in float32
and independent of thread scheduling: the same GPU gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
"""Maximum number of channels, and of pixels, per tile."""


@triton.jit
def _tile(x, channels, pixels, tile_c: tl.constexpr, tile_p: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's image, pixels and channels; offsets into x and mask as [c, p]; mask and float32 values as [p,
    c]."""
    p = tl.program_id(0) * tile_p + tl.arange(0, tile_p)
    c = tl.program_id(1) * tile_c + tl.arange(0, tile_c)
    n = tl.program_id(2).to(tl.int64)
    place = (n * channels + c)[:, None] * pixels + p[None, :]
    inside = (c < channels)[:, None] & (p < pixels)[None, :]
    there = (p < pixels)[:, None] & (c < channels)[None, :]
    values = tl.trans(tl.load(x + place, mask=inside, other=0.0).to(tl.float32))
    return n, p, c, place, inside, there, values


@triton.jit
def _places(n, p, c, channels, pixels, group_channels, k, kernels: tl.constexpr, grouped: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offsets of [p, c] of kernel k in the stacked tensor."""
    row = (n * pixels + p)[:, None] * (channels * kernels)
    if grouped:
        return row + ((c // group_channels * kernels + k) * group_channels + c % group_channels)[None, :]
    return row + (k * channels + c)[None, :]


@triton.jit
def _scale_kernel(  # type: ignore[no-untyped-def]
    x, attention, out, channels, pixels, group_channels,
    kernels: tl.constexpr, grouped: tl.constexpr, tile_c: tl.constexpr, tile_p: tl.constexpr,
):  # fmt: skip
    n, p, c, _, _, there, values = _tile(x, channels, pixels, tile_c, tile_p)
    for k in tl.static_range(kernels):
        pi = tl.load(attention + n * kernels + k).to(tl.float32)
        place = _places(n, p, c, channels, pixels, group_channels, k, kernels, grouped)
        tl.store(out + place, pi * values, mask=there)


@triton.jit
def _gather_kernel(  # type: ignore[no-untyped-def]
    each, x, attention, grad_x, grad_attention, channels, pixels, group_channels,
    kernels: tl.constexpr, grouped: tl.constexpr, tile_c: tl.constexpr, tile_p: tl.constexpr,
):  # fmt: skip
    n, p, c, place_x, inside, there, values = _tile(x, channels, pixels, tile_c, tile_p)
    total = tl.zeros((tile_p, tile_c), tl.float32)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    for k in tl.static_range(kernels):
        pi = tl.load(attention + n * kernels + k).to(tl.float32)
        place = _places(n, p, c, channels, pixels, group_channels, k, kernels, grouped)
        one = tl.load(each + place, mask=there, other=0.0).to(tl.float32)
        total += pi * one
        along = tl.sum(tl.sum(one * values, 1), 0)
        tl.store(grad_attention + (n * tl.num_programs(0) * tl.num_programs(1) + tile) * kernels + k, along)
    tl.store(grad_x + place_x, tl.trans(total), mask=inside)


def scale(x: Tensor, attention: Tensor, groups: int) -> Tensor:
    """x [N, C, H, W] times each image's K attention weights: [N, K·C, H, W], channels last."""
    images, channels, height, width = x.shape
    out = torch.empty(
        images,
        channels * attention.shape[1],
        height,
        width,
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    grid, sizes, fixed = _launch(x, attention, groups)
    _scale_kernel[grid](x, attention, out, *sizes, **fixed)
    return out


def gather(each: Tensor, x: Tensor, attention: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The gradients of x and attention from `each`, the gradient of `scale`'s result (channels last)."""
    grid, sizes, fixed = _launch(x, attention, groups)
    grad_x = torch.empty_like(x)
    by_tile = attention.new_empty(x.shape[0], grid[0] * grid[1], attention.shape[1], dtype=torch.float32)
    _gather_kernel[grid](each, x, attention, grad_x, by_tile, *sizes, **fixed)
    return grad_x, by_tile.sum(1).to(attention.dtype)


def _launch(
    x: Tensor, attention: Tensor, groups: int
) -> tuple[tuple[int, int, int], tuple[int, int, int], dict[str, int | bool]]:
    """Grid, sizes, and the kernel's compile-time constants."""
    images, channels, height, width = x.shape
    pixels = height * width
    tile_c, tile_p = (max(16, min(TILE, triton.next_power_of_2(size))) for size in (channels, pixels))
    fixed: dict[str, int | bool] = {"kernels": attention.shape[1], "grouped": groups > 1}
    grid = (triton.cdiv(pixels, tile_p), triton.cdiv(channels, tile_c), images)
    return grid, (channels, pixels, channels // groups), {**fixed, "tile_c": tile_c, "tile_p": tile_p}
