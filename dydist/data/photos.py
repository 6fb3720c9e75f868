"""Augmentation of photographs: random resized crops and colour jitter, on uint8 batches.

Computed in fixed-point numbers, in units of 1/256, so an image gets the same bits in any batch and on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

UNIT = 256
"""1.0 in the fixed-point numbers here."""
_CACHED = 1 << 20
"""Values of a part of a batch: 4 MiB as int32."""
_LOG_ASPECT = math.log(4 / 3)
_ATTEMPTS = 10
_GREY = (77, 150, 29)
"""Weights of red, green and blue in a grey value (ITU-R BT.601), in units of 1/256."""


def draw_windows(rng: np.random.Generator, *, count: int, size: int, least: float) -> np.ndarray:
    """Windows of random resized crops: int64 [count, 4], (top, bottom, left, right), bottom and right not included.

    The area is uniform between `least` and 1 times that of the image, the logarithm of width / height uniform between
    those of 3/4 and 4/3, as in torchvision's RandomResizedCrop (Szegedy et al., arXiv:1409.4842). Of ten such windows
    the first that fits is taken; if none does, the whole image.
    """
    area = rng.uniform(least, 1, (count, _ATTEMPTS)) * size**2
    aspect = np.exp(rng.uniform(-_LOG_ASPECT, _LOG_ASPECT, (count, _ATTEMPTS)))
    width, height = (np.rint(np.sqrt(one)).astype(np.int64).clip(1) for one in (area * aspect, area / aspect))
    fits = (width <= size) & (height <= size)
    chosen = np.arange(count), fits.argmax(axis=1)
    width, height = (np.where(fits.any(axis=1), one[chosen], size) for one in (width, height))
    top, left = (
        (place * (size - extent + 1)).astype(np.int64)
        for place, extent in zip(rng.random((2, count)), (height, width), strict=True)
    )
    return np.stack([top, top + height, left, left + width], axis=1)


def resized_crop(images: Tensor, windows: Tensor) -> Tensor:
    """Scale each image's window (int64 [N, 4]) to the image's size, bilinear: uint8 [N, 3, S, S] → the same shape."""
    return _in_parts(_resized_crop, images, windows)


def _in_parts(function: Callable[[Tensor, Tensor], Tensor], images: Tensor, values: Tensor) -> Tensor:
    """The function of images [N, 3, S, S] and values [N, …]; on a CPU in parts of the batch that stay in its cache."""
    count = max(1, _CACHED // images.shape[1:].numel()) if images.device.type == "cpu" else len(images)
    if count >= len(images):
        return function(images, values)
    parts = zip(images.split(count), values.split(count), strict=True)
    return torch.cat([function(*part) for part in parts])


def _resized_crop(images: Tensor, windows: Tensor) -> Tensor:
    top, bottom, left, right = windows.unbind(1)
    tall = _scaled_rows(images, top, bottom)
    wide = _scaled_rows(tall.transpose(2, 3), left, right)
    rounded = wide.add_(UNIT**2 // 2).bitwise_right_shift_(16).to(torch.uint8)
    return rounded.transpose(2, 3).contiguous()


def _scaled_rows(images: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Scale rows `start` to `stop` (int64 [N]) of each image [N, 3, S, S] to S rows: int32, in units of 1/256."""
    count, channels, size, _ = images.shape
    low, high, share = _between(start, stop, size)
    rows = images.reshape(-1, size)  # whole rows are copied: much quicker than `gather`
    first = size * torch.arange(count * channels, device=images.device).view(count, channels, 1)
    upper, lower = (
        rows.index_select(0, (first + place[:, None]).flatten()).view_as(images).to(torch.int32)
        for place in (low, high)
    )
    return lower.sub_(upper).mul_(share[:, None, :, None]).add_(upper.mul_(UNIT))


def _between(start: Tensor, stop: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels between which each of `size` points lies, spread evenly over [start, stop), and the second's weight.

    Each [N, size]; the weight int32 in units of 1/256.
    """
    extent = (stop - start)[:, None]
    middle = 2 * torch.arange(size, device=start.device)[None] + 1
    place = (middle * extent * UNIT).div(2 * size, rounding_mode="floor") - UNIT // 2
    place = torch.minimum(place.clamp(min=0), (extent - 1) * UNIT)
    low = place >> 8
    return (
        start[:, None] + low,
        start[:, None] + torch.minimum(low + 1, extent - 1),
        (place & 255).to(torch.int32),
    )


def draw_jitter(rng: np.random.Generator, *, count: int, strength: float) -> np.ndarray:
    """Factors on brightness, contrast and saturation: int64 [count, 3] in 1/256, uniform in 1 ± `strength`."""
    return np.rint(rng.uniform(1 - strength, 1 + strength, (count, 3)) * UNIT).astype(np.int64)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation of uint8 [N, 3, H, W] by int64 [N, 3].

    As torchvision's ColorJitter, in this order: a factor times the difference to black, to the image's mean grey, and
    to each pixel's own grey.
    """
    brightness, contrast, saturation = factors.to(torch.int32)[:, :, None, None, None].unbind(1)
    values = images.to(torch.int32)
    values = blend(values, 0, brightness)
    mean = grey(values).sum((2, 3), dtype=torch.int64) // values[0, 0].numel()
    values = blend(values, mean.to(torch.int32)[:, :, None, None], contrast)
    return blend(values, grey(values), saturation).to(torch.uint8)


def blend(values: Tensor, base: Tensor | int, factor: Tensor) -> Tensor:
    """base + factor · (values - base), rounded and clipped to 0 … 255."""
    difference = values - base
    return difference.mul_(factor).add_(UNIT // 2).bitwise_right_shift_(8).add_(base).clamp_(0, 255)


def grey(values: Tensor) -> Tensor:
    """int32 [N, 3, H, W] → int32 [N, 1, H, W]."""
    red, green, blue = values.split(1, dim=1)
    grey: Tensor = (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue + UNIT // 2) >> 8
    return grey
