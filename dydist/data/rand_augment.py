"""RandAugment on uint8 batches: two operations on each image, of the same magnitude (Cubuk et al., arXiv:1909.13719).

Operations and ranges are those of torchvision's RandAugment with 31 magnitudes. In whole numbers, as in `photos`, so an
image gets the same bits in any batch and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dydist.data.photos import UNIT, blend, grey
from dydist.data.pinned import pinned

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
STRONGEST = 30
_EACH = 2
_FINE = 1 << 16
"""1.0 in the matrices of `_warp`."""


def draw_rand_augment(rng: np.random.Generator, *, count: int, magnitude: int) -> np.ndarray:
    """Two operations for each image: int64 [count, 2, 2], (index in OPERATIONS, ±magnitude of 0 … 30)."""
    operation = rng.integers(0, len(OPERATIONS), (count, _EACH))
    sign = 2 * rng.integers(0, 2, (count, _EACH)) - 1
    return np.stack([operation, sign * magnitude], axis=2)


def rand_augment(images: Tensor, drawn: np.ndarray) -> Tensor:
    """Apply what was drawn, on the host: uint8 [N, 3, S, S] → the same shape, a new tensor. New pixels are black."""
    images = images.clone()
    for operation, signed in (drawn[:, turn].T for turn in range(drawn.shape[1])):
        for number, name in enumerate(OPERATIONS):
            rows = np.flatnonzero(operation == number)
            if name != "identity" and len(rows):
                where = _to(rows, images)
                images[where] = _APPLY[name](images[where], signed[rows], name).to(torch.uint8)
    return images


def _to(values: np.ndarray, like: Tensor) -> Tensor:
    return pinned(values, like.device).to(like.device, non_blocking=True)


def _warp(images: Tensor, signed: np.ndarray, name: str) -> Tensor:
    """Shear about the top left corner, shift, or rotate about the middle, by the nearest pixel."""
    size = images.shape[-1]
    share = signed / STRONGEST
    one, none = np.ones_like(share), np.zeros_like(share)
    if name == "shear_x":
        rows = [one, 0.3 * share, none, none, one, none]
    elif name == "shear_y":
        rows = [one, none, none, 0.3 * share, one, none]
    elif name == "rotate":
        cos, sin = np.cos(math.radians(30) * share), np.sin(math.radians(30) * share)
        rows = [cos, -sin, size * (1 - cos + sin), sin, cos, size * (1 - cos - sin)]
    else:
        shift = -2 * np.trunc(150 / 331 * size * share)
        rows = [one, none, none, none, one, none]
        rows[2 if name == "translate_x" else 5] = shift
    fine = np.rint(np.stack(rows, axis=1) * _FINE).astype(np.int64)
    matrix = _to(fine, images)[:, :, None, None]
    place = 2 * torch.arange(size, device=images.device) + 1  # twice the middle of each pixel
    x, y = place[None, None, :], place[None, :, None]
    column, row = ((matrix[:, n] * x + matrix[:, n + 1] * y + matrix[:, n + 2]) >> 17 for n in (0, 3))
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    flat = (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).flatten(1)
    taken = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return taken * inside[:, None]


def _colours(images: Tensor, signed: np.ndarray, name: str) -> Tensor:
    """A factor of 0.1 … 1.9 times the difference to black, to grey, to the mean grey, or to the blurred image."""
    factor = np.rint((1 + 0.9 * signed / STRONGEST) * UNIT).astype(np.int64)
    values = images.to(torch.int32)
    if name == "brightness":
        base: Tensor | int = 0
    elif name == "colour":
        base = grey(values)
    elif name == "contrast":
        pixels = values[0, 0].numel()
        mean = grey(values).sum((1, 2, 3), dtype=torch.int64) // pixels
        base = mean.to(torch.int32)[:, None, None, None]
    else:
        base = _blurred(values)
    return blend(values, base, _to(factor, images).to(torch.int32)[:, None, None, None])


def _blurred(values: Tensor) -> Tensor:
    """The mean over 3x3 pixels in which the middle one counts five times; the outermost pixels stay."""
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[:, :, 1:-1, 1:-1]
    blurred = values.clone()
    blurred[:, :, 1:-1, 1:-1] = (2 * sums + 13) // 26
    return blurred


def _levels(images: Tensor, signed: np.ndarray, name: str) -> Tensor:
    """Keep the highest 8 … 4 bits of each value, or invert those above a threshold of 255 … 0."""
    strength = np.abs(signed)
    if name == "posterize":
        lost = np.rint(strength * 4 / STRONGEST).astype(np.int64)
        bits = _to(lost, images)[:, None, None, None]
        return (images.to(torch.int64) >> bits) << bits
    threshold = (255 * (STRONGEST - strength) + STRONGEST - 1) // STRONGEST
    values = images.to(torch.int64)
    return torch.where(values >= _to(threshold, images)[:, None, None, None], 255 - values, values)


def _histograms(images: Tensor, signed: np.ndarray, name: str) -> Tensor:
    """Stretch each channel to 0 … 255, or give its values equal counts."""
    values = images.flatten(2).to(torch.int64)
    if name == "autocontrast":
        low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
        stretched = (values - low) * 255 // (high - low).clamp(min=1)
        return torch.where(high > low, stretched, values).view_as(images)
    every = torch.arange(256, device=images.device).expand(*values.shape[:2], 256).contiguous()
    below = torch.searchsorted(values.sort(2).values.contiguous(), every)  # number of pixels below each value
    step = below.gather(2, values.amax(2, keepdim=True)) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table.gather(2, values), values).view_as(images)


_APPLY: dict[str, Callable[[Tensor, np.ndarray, str], Tensor]] = {
    **dict.fromkeys(("shear_x", "shear_y", "translate_x", "translate_y", "rotate"), _warp),
    **dict.fromkeys(("brightness", "colour", "contrast", "sharpness"), _colours),
    **dict.fromkeys(("posterize", "solarize"), _levels),
    **dict.fromkeys(("autocontrast", "equalize"), _histograms),
}
