"""`taps`: for feature maps of a few pixels, one matrix product over the batch per pixel that a tap covers.

On a 1x1 map, only the centre tap of a padded 3x3 kernel covers a pixel; on a 2x2 map, 4 of 9 taps do for each output.
An ordinary convolution also multiplies the padding. This strategy computes only existing pairs (output pixel, input
pixel) and mixes the K outputs. On few pixels that is cheaper than mixing kernels, each of whose taps would be used
once or twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dydist.models.strategies.custom import operator
from dydist.models.strategies.native.layout import join_taps, split_taps
from dydist.models.strategies.problem import Geometry, Pair


@dataclass(frozen=True)
class TapPairs:
    """The (output pixel, input pixel) pairs of each tap that has any, for an output of `output` pixels; row-major."""

    output: Pair
    pairs: dict[int, list[Pair]]


def tap_pairs(size: Pair, kernel: Pair, geometry: Geometry) -> TapPairs:
    """The pixel pairs of a `kernel` (height, width) on a map of `size` pixels."""
    output = geometry.output_size(size, kernel)

    def along(axis: int) -> list[list[Pair]]:
        stride, dilation, padding = geometry.stride[axis], geometry.dilation[axis], geometry.padding[axis]
        return [
            [
                (out, place)
                for out in range(output[axis])
                if 0 <= (place := out * stride + tap * dilation - padding) < size[axis]
            ]
            for tap in range(kernel[axis])
        ]

    rows, columns = along(0), along(1)
    pairs = {
        i * kernel[1] + j: [
            (out_row * output[1] + out_column, row * size[1] + column)
            for out_row, row in rows[i]
            for out_column, column in columns[j]
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    }
    return TapPairs(output, {tap: met for tap, met in pairs.items() if met})


def _by_tap(weight: Tensor, met: TapPairs, groups: int) -> Tensor:
    """Kernels as [taps, groups, K, out/groups, C/groups], for the taps in `met`."""
    apart: Tensor = split_taps(weight, list(met.pairs)).unflatten(2, (groups, weight.shape[1] // groups))
    return apart.transpose(1, 2).contiguous()


def _pixels_first(x: Tensor, groups: int) -> Tensor:
    """[N, C, H, W] as [H·W, groups, N, C/groups]."""
    return x.view(x.shape[0], groups, x.shape[1] // groups, -1).permute(3, 1, 0, 2).contiguous()


def _sum_products(totals: Tensor, products: Iterable[tuple[int, Tensor, Tensor]]) -> None:
    """totals[i] = sum of left @ right over all (i, left, right); zero if i does not occur."""
    begun = set()
    for i, left, right in products:
        if i in begun:
            totals[i].baddbmm_(left, right)
        else:
            torch.bmm(left, right, out=totals[i])
            begun.add(i)
    for i in set(range(len(totals))) - begun:
        totals[i].zero_()


def _forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    size, kernel = (x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4])
    images, (kernels, out_channels), groups = x.shape[0], weight.shape[:2], geometry.groups
    met = tap_pairs(size, kernel, geometry)
    pixels = _pixels_first(x, groups)
    each = x.new_empty(met.output[0] * met.output[1], groups, images, kernels * (out_channels // groups))
    columns = (
        _by_tap(weight, met, groups).flatten(2, 3).transpose(2, 3)
    )  # [taps, groups, C/groups, K · out/groups]
    _sum_products(
        each,
        (
            (out, pixels[place], tap)
            for tap, pairs in zip(columns, met.pairs.values(), strict=True)
            for out, place in pairs
        ),
    )
    mixed = torch.einsum("pgnko,nk->ngop", each.unflatten(3, (kernels, -1)), attention)
    return mixed.reshape(images, out_channels, *met.output)


def _backward(
    grad: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    for_x, for_kernels = wanted
    size, kernel = (x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4])
    images, kernels, groups = x.shape[0], weight.shape[0], geometry.groups
    met = tap_pairs(size, kernel, geometry)
    by_tap = _by_tap(weight, met, groups)
    grads = _pixels_first(grad, groups)  # [P, groups, N, out/groups]
    # Gradient through each kernel separately: its mixture is x's gradient, its product with x is π's.
    per_kernel = x.new_empty(size[0] * size[1], groups * kernels, images, x.shape[1] // groups)
    repeated = grads.repeat_interleave(kernels, 1)
    _sum_products(
        per_kernel,
        (
            (place, repeated[out], tap)
            for tap, pairs in zip(by_tap.flatten(1, 2), met.pairs.values(), strict=True)
            for out, place in pairs
        ),
    )
    each = per_kernel.unflatten(1, (groups, kernels))
    grad_x, grad_attention, grad_weight = (x.new_empty(0) for _ in range(3))
    if for_x:
        grad_x = torch.einsum("qgknc,nk->ngcq", each, attention).reshape(x.shape)
    if for_kernels:
        pixels = _pixels_first(x, groups)
        grad_attention = torch.einsum("qgknc,qgnc->nk", each, pixels).contiguous()
        weighted = torch.einsum("pgno,nk->pgkon", grads, attention).flatten(2, 3)  # rows: K · out/groups
        sums = x.new_empty(by_tap.shape).flatten(2, 3)
        _sum_products(
            sums,
            (
                (number, weighted[out], pixels[place])
                for number, pairs in enumerate(met.pairs.values())
                for out, place in pairs
            ),
        )
        apart = (
            sums.view(by_tap.shape).transpose(1, 2).contiguous()
        )  # [taps, K, groups, out/groups, C/groups]
        grad_weight = join_taps(apart.flatten(2, 3), list(met.pairs), weight)
    return grad_x, grad_attention, grad_weight


taps = operator("taps", _forward, _backward)
