"""The kernels of `triton`: an implicit matrix product for each image, whose left side is mixed where it is used.

A program has a tile of output channels (o) and of pixels (p), and walks along the taps (r: input channels by kernel
pixels). Positions: x [N, C, H, W], weight [K, O, C/groups, kh, kw] = [K, O, R], attention [N, K]; all contiguous.
Sums are in float32; products are in TF32 where torch lets convolutions be (`torch.backends.cudnn`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dydist.models.strategies.problem import Geometry, Pair

CHANNELS, TAPS, PIXELS = 32, 32, 64
"""A tile's output channels, taps, and at most so many pixels. Powers of two from 16 on (tl.dot)."""
PROGRAMS, SEGMENTS = 256, 16
"""Where the kernels' gradient has fewer tiles than `PROGRAMS`, images are cut into up to `SEGMENTS` parts with sums of
their own."""


@triton.jit
def _load_kernels(weight, k, o, r, outputs, fan_in, inside):  # type: ignore[no-untyped-def]
    """Tiles [K, o, r] of the K kernels, in float32; zero where not `inside`."""
    place = (k[:, None, None] * outputs + o[None, :, None]) * fan_in + r[None, None, :]
    return tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, attention, weight, out,
    channels, height, width, outputs, out_height, out_width, group_channels, group_outputs,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    kernels: tl.constexpr, kernels_2: tl.constexpr, kernel_h: tl.constexpr, kernel_w: tl.constexpr,
    tile_o: tl.constexpr, tile_r: tl.constexpr, tile_p: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    pixels = out_height * out_width
    fan_in = group_channels * kernel_h * kernel_w
    p = tl.program_id(0) * tile_p + tl.arange(0, tile_p)
    tiles = tl.cdiv(group_outputs, tile_o)
    group = tl.program_id(1) // tiles
    o = (tl.program_id(1) % tiles) * tile_o + tl.arange(0, tile_o)
    n = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, kernels_2)
    pi = tl.load(attention + n * kernels + k, mask=k < kernels, other=0.0).to(tl.float32)
    row, column = p // out_width, p % out_width
    total = tl.zeros((tile_o, tile_p), tl.float32)
    for start in range(0, fan_in, tile_r):
        r = start + tl.arange(0, tile_r)
        inside = (
            (k < kernels)[:, None, None] & (o < group_outputs)[None, :, None] & (r < fan_in)[None, None, :]
        )
        each = _load_kernels(weight, k, group * group_outputs + o, r, outputs, fan_in, inside)
        mixed = tl.sum(pi[:, None, None] * each, 0)
        channel, tap = r // (kernel_h * kernel_w), r % (kernel_h * kernel_w)
        h = row[None, :] * stride_h - padding_h + (tap // kernel_w)[:, None] * dilation_h
        w = column[None, :] * stride_w - padding_w + (tap % kernel_w)[:, None] * dilation_w
        met = (h >= 0) & (h < height) & (w >= 0) & (w < width) & (r < fan_in)[:, None] & (p < pixels)[None, :]
        plane = n * channels + group * group_channels + channel
        values = tl.load(x + (plane[:, None] * height + h) * width + w, mask=met, other=0.0)
        total += tl.dot(mixed.to(values.dtype), values, input_precision=precision)
    place = (n * outputs + group * group_outputs + o)[:, None] * pixels + p[None, :]
    tl.store(out + place, total, mask=(o < group_outputs)[:, None] & (p < pixels)[None, :])


@triton.jit
def _input_gradient_kernel(  # type: ignore[no-untyped-def]
    grad, attention, weight, grad_x,
    channels, height, width, outputs, out_height, out_width, group_channels, group_outputs,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    kernels: tl.constexpr, kernels_2: tl.constexpr, kernel_h: tl.constexpr, kernel_w: tl.constexpr,
    tile_c: tl.constexpr, tile_o: tl.constexpr, tile_p: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    taps = kernel_h * kernel_w
    p = tl.program_id(0) * tile_p + tl.arange(0, tile_p)  # pixels of x
    tiles = tl.cdiv(group_channels, tile_c)
    group = tl.program_id(1) // tiles
    c = (tl.program_id(1) % tiles) * tile_c + tl.arange(0, tile_c)
    n = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, kernels_2)
    pi = tl.load(attention + n * kernels + k, mask=k < kernels, other=0.0).to(tl.float32)
    row, column = p // width, p % width
    total = tl.zeros((tile_c, tile_p), tl.float32)
    for start in range(0, group_outputs, tile_o):
        o = start + tl.arange(0, tile_o)
        inside = (k < kernels)[:, None, None] & (o < group_outputs)[None, :, None]
        inside = inside & (c < group_channels)[None, None, :]
        fan_in = group_channels * taps
        plane = n * outputs + group * group_outputs + o
        for tap in range(taps):  # within: neighbouring taps are in the same cache lines
            up = row + padding_h - (tap // kernel_w) * dilation_h
            left = column + padding_w - (tap % kernel_w) * dilation_w
            h, w = up // stride_h, left // stride_w
            met = (up >= 0) & (left >= 0) & (up % stride_h == 0) & (left % stride_w == 0)
            met = met & (h < out_height) & (w < out_width) & (p < height * width)
            each = _load_kernels(
                weight, k, group * group_outputs + o, c * taps + tap, outputs, fan_in, inside
            )
            mixed = tl.trans(tl.sum(pi[:, None, None] * each, 0))
            place = (plane[:, None] * out_height + h[None, :]) * out_width + w[None, :]
            values = tl.load(grad + place, mask=met[None, :] & (o < group_outputs)[:, None], other=0.0)
            total += tl.dot(mixed.to(values.dtype), values, input_precision=precision)
    place = (n * channels + group * group_channels + c)[:, None] * (height * width) + p[None, :]
    tl.store(grad_x + place, total, mask=(c < group_channels)[:, None] & (p < height * width)[None, :])


@triton.jit
def _kernel_gradient_kernel(  # type: ignore[no-untyped-def]
    grad, x, attention, weight, grad_weight, grad_attention,
    images, images_each, channels, height, width, outputs, out_height, out_width, group_channels, group_outputs,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    kernels: tl.constexpr, kernels_2: tl.constexpr, kernel_h: tl.constexpr, kernel_w: tl.constexpr,
    tile_o: tl.constexpr, tile_r: tl.constexpr, tile_p: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    pixels = out_height * out_width
    fan_in = group_channels * kernel_h * kernel_w
    r = tl.program_id(0) * tile_r + tl.arange(0, tile_r)
    tiles = tl.cdiv(group_outputs, tile_o)
    group = tl.program_id(1) // tiles
    o = (tl.program_id(1) % tiles) * tile_o + tl.arange(0, tile_o)
    segment = tl.program_id(2)
    k = tl.arange(0, kernels_2)
    channel, tap = r // (kernel_h * kernel_w), r % (kernel_h * kernel_w)
    inside = (k < kernels)[:, None, None] & (o < group_outputs)[None, :, None] & (r < fan_in)[None, None, :]
    each = _load_kernels(weight, k, group * group_outputs + o, r, outputs, fan_in, inside)
    total = tl.zeros((kernels_2, tile_o, tile_r), tl.float32)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    for image in range(segment * images_each, tl.minimum(images, (segment + 1) * images_each)):
        n = tl.cast(image, tl.int64)
        made = tl.zeros((tile_o, tile_r), tl.float32)  # the gradient of this image's own kernel
        for start in range(0, pixels, tile_p):
            p = start + tl.arange(0, tile_p)
            plane = n * outputs + group * group_outputs + o
            there = (o < group_outputs)[:, None] & (p < pixels)[None, :]
            out = tl.load(grad + plane[:, None] * pixels + p[None, :], mask=there, other=0.0)
            h = (p // out_width)[:, None] * stride_h - padding_h + (tap // kernel_w)[None, :] * dilation_h
            w = (p % out_width)[:, None] * stride_w - padding_w + (tap % kernel_w)[None, :] * dilation_w
            met = (
                (h >= 0)
                & (h < height)
                & (w >= 0)
                & (w < width)
                & (r < fan_in)[None, :]
                & (p < pixels)[:, None]
            )
            source = n * channels + group * group_channels + channel
            values = tl.load(x + (source[None, :] * height + h) * width + w, mask=met, other=0.0)
            made += tl.dot(out, values, input_precision=precision)
        pi = tl.load(attention + n * kernels + k, mask=k < kernels, other=0.0).to(tl.float32)
        total += pi[:, None, None] * made[None, :, :]
        along = tl.sum(tl.sum(each * made[None, :, :], 2), 1)
        place = (n * tl.num_programs(0) * tl.num_programs(1) + tile) * kernels + k
        tl.store(grad_attention + place, along, mask=k < kernels)
    place = (
        (segment * kernels + k)[:, None, None] * outputs + group * group_outputs + o[None, :, None]
    ) * fan_in
    tl.store(grad_weight + place + r[None, None, :], total, mask=inside)


def forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry, size: Pair) -> Tensor:
    """The output [N, O, *size] in x's dtype."""
    images, outputs, groups = x.shape[0], weight.shape[1], geometry.groups
    out = x.new_empty(images, outputs, *size)
    tile_p = _pixels(size[0] * size[1])
    grid = (
        triton.cdiv(size[0] * size[1], tile_p),
        groups * triton.cdiv(outputs // groups, CHANNELS),
        images,
    )
    tiles = {"tile_o": CHANNELS, "tile_r": TAPS, "tile_p": tile_p}
    _forward_kernel[grid](
        x, attention, weight, out, *_sizes(x, weight, geometry, size), **_fixed(weight), **tiles
    )
    return out


def input_gradient(grad: Tensor, x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of x; `grad` is that of the output [N, O, H', W']."""
    made = torch.empty_like(x)
    pixels, groups = x.shape[2] * x.shape[3], geometry.groups
    tile_p = _pixels(pixels)
    grid = (triton.cdiv(pixels, tile_p), groups * triton.cdiv(weight.shape[2], CHANNELS), x.shape[0])
    sizes = _sizes(x, weight, geometry, (grad.shape[2], grad.shape[3]))
    tiles = {"tile_c": CHANNELS, "tile_o": CHANNELS, "tile_p": tile_p}
    _input_gradient_kernel[grid](grad, attention, weight, made, *sizes, **_fixed(weight), **tiles)
    return made


def kernel_gradient(
    grad: Tensor, x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Gradients of the attention [N, K] and of the kernels."""
    images, kernels, outputs, groups = x.shape[0], weight.shape[0], weight.shape[1], geometry.groups
    size = (grad.shape[2], grad.shape[3])
    across = triton.cdiv(weight[0, 0].numel(), TAPS), groups * triton.cdiv(outputs // groups, CHANNELS)
    segments = min(images, SEGMENTS, triton.cdiv(PROGRAMS, across[0] * across[1]))
    images_each = triton.cdiv(images, segments)
    by_segment = weight.new_empty(segments, *weight.shape, dtype=torch.float32)
    by_tile = attention.new_empty(images, across[0] * across[1], kernels, dtype=torch.float32)
    tiles = {"tile_o": CHANNELS, "tile_r": TAPS, "tile_p": _pixels(size[0] * size[1])}
    _kernel_gradient_kernel[(*across, segments)](
        *(grad, x, attention, weight, by_segment, by_tile),
        *(images, images_each, *_sizes(x, weight, geometry, size)),
        **_fixed(weight),
        **tiles,
    )
    return by_tile.sum(1).to(attention.dtype), by_segment.sum(0).to(weight.dtype)


def _pixels(pixels: int) -> int:
    """Pixels of a tile: as many as there are, within what `tl.dot` takes."""
    return max(16, min(PIXELS, triton.next_power_of_2(pixels)))


def _sizes(x: Tensor, weight: Tensor, geometry: Geometry, size: Pair) -> list[int]:
    outputs, groups = weight.shape[1], geometry.groups
    stride, padding, dilation, _ = geometry
    return [*x.shape[1:], outputs, *size, weight.shape[2], outputs // groups, *stride, *padding, *dilation]


def _fixed(weight: Tensor) -> dict[str, object]:
    """What a kernel is compiled for."""
    return {"kernel_h": weight.shape[3], "kernel_w": weight.shape[4], **for_kernels(weight.shape[0], _tf32())}


def for_kernels(kernels: int, tf32: bool) -> dict[str, object]:
    """What K kernels need. Stages are tiles of all K in shared memory, warps are registers for one of them."""
    slots = triton.next_power_of_2(kernels)
    return {
        "kernels": kernels,
        "kernels_2": slots,
        "precision": "tf32" if tf32 else "ieee",
        "num_warps": 4 if slots <= 4 else 8,
        "num_stages": 3 if slots <= 8 else 1,
    }


def _tf32() -> bool:
    """Whether convolutions may multiply in TF32, as torch's present setting or its older one has it."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    precision = getattr(convolutions, "fp32_precision", None)
    return precision == "tf32" if precision is not None else bool(torch.backends.cudnn.allow_tf32)
