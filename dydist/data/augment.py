"""Augmentation of uint8 batches on the device, with random draws on the host per shard.

Drawing and applying are separate: a draw depends only on its generator, so an image is augmented in the same way
for any number of shards per batch and on any device. Nothing loops over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dydist.config import DataConfig
from dydist.data.photos import draw_jitter, draw_windows, jitter, resized_crop
from dydist.data.pinned import pinned
from dydist.data.rand_augment import draw_rand_augment, rand_augment


@dataclass(frozen=True)
class Augmentation:
    """The operations on each of N images, by row; None if an operation is off.

    `crop` int64 [N, 2]: top and left of the window in the padded image. `padding`: pixels around it. `window` int64
    [N, 4] and `jitter` int64 [N, 3]: as in `photos`. `flip` bool [N]. `operations` int64 [N, 2, 2]: as in
    `rand_augment`.
    `cutout` int64 [N, 4]: top, bottom, left, right of the square (bottom, right not included). `partner` int64 [N]:
    the row with which each image is mixed; `share` float32 [N]: the image's own weight. `box` int64 [N, 4]: as
    `cutout`, the part taken from the partner (cutmix); with `box` None: mixup.
    """

    padding: int
    crop: np.ndarray | None = None
    flip: np.ndarray | None = None
    cutout: np.ndarray | None = None
    partner: np.ndarray | None = None
    share: np.ndarray | None = None
    box: np.ndarray | None = None
    window: np.ndarray | None = None
    jitter: np.ndarray | None = None
    operations: np.ndarray | None = None


def draw_augmentation(
    config: DataConfig, rng: np.random.Generator, *, count: int, size: int, flip: bool
) -> Augmentation:
    """Draw the augmentation of the `count` images of one shard, each `size` × `size` pixels.

    The order of draws is fixed: crop, flip, cutout, colour, RandAugment, mixing partner, mixing share, mixing box.
    Images are mixed within the shard, with one share and one box for all of them, as in the papers for a batch.
    """
    crop = window = colour = operations = None
    if config.resized_crop:
        window = draw_windows(rng, count=count, size=size, least=config.resized_crop)
    elif config.crop_padding:
        crop = rng.integers(0, 2 * config.crop_padding + 1, (count, 2))
    flips = rng.random(count) < 0.5 if flip else None
    cutout = _squares(rng.integers(0, size, (count, 2)), config.cutout, size) if config.cutout else None
    if config.colour_jitter:
        colour = draw_jitter(rng, count=count, strength=config.colour_jitter)
    if config.rand_augment:
        operations = draw_rand_augment(rng, count=count, magnitude=config.rand_augment)
    drawn = Augmentation(
        config.crop_padding, crop, flips, cutout, window=window, jitter=colour, operations=operations
    )
    alpha = config.mixup or config.cutmix
    if not alpha:
        return drawn
    partner = rng.permutation(count)
    share = rng.beta(alpha, alpha)
    box = None
    if config.cutmix:
        side = round(size * float(np.sqrt(1 - share)))
        box = np.repeat(_squares(rng.integers(0, size, (1, 2)), side, size), count, axis=0)
        share = 1 - (box[0, 1] - box[0, 0]) * (box[0, 3] - box[0, 2]) / size**2
    return replace(drawn, partner=partner, share=np.full(count, share, dtype=np.float32), box=box)


def _squares(centres: np.ndarray, side: int, size: int) -> np.ndarray:
    """Squares [N, 4] (top, bottom, left, right) around centres [N, 2], clipped to the image."""
    low = np.clip(centres - side // 2, 0, size)
    high = np.clip(centres - side // 2 + side, 0, size)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def interleave(augmentations: Sequence[Augmentation]) -> Augmentation:
    """Join shards of equal size: row i·s + j of the result is row i of shard j."""
    first, shards = augmentations[0], len(augmentations)
    joined: dict[str, np.ndarray] = {}
    for field in fields(Augmentation):
        if field.name != "padding" and getattr(first, field.name) is not None:
            rows = np.stack([getattr(one, field.name) for one in augmentations], axis=1)
            if field.name == "partner":
                rows = rows * shards + np.arange(shards)
            joined[field.name] = rows.reshape(-1, *rows.shape[2:])
    return Augmentation(first.padding, **joined)


def apply_augmentation(images: Tensor, plan: Augmentation, *, fill: tuple[int, ...]) -> Tensor:
    """Crop, flip, RandAugment, colours, cutout: uint8 [N, 3, H, W] on any device → the same shape, a new tensor.

    Padding is black, as in torchvision's RandomCrop; cut-out squares get `fill` (0..255 per channel).
    """
    size = images.shape[-1]
    if plan.crop is not None:
        padded = torch.nn.functional.pad(images, [plan.padding] * 4)
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # [N, 3, 2p+1, 2p+1, H, W], no copy
        top, left = _to(plan.crop, images).unbind(1)
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    if plan.window is not None:
        images = resized_crop(images, _to(plan.window, images))
    if plan.flip is not None:
        images = torch.where(_to(plan.flip, images)[:, None, None, None], images.flip(3), images)
    if plan.operations is not None:
        images = rand_augment(images, plan.operations)
    if plan.jitter is not None:
        images = jitter(images, _to(plan.jitter, images))
    if plan.cutout is not None:
        colour = _constant(fill, torch.uint8, images.device)[:, None, None]
        images = torch.where(_inside(_to(plan.cutout, images), size), colour, images)
    return images


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 [N, 3, H, W] → `dtype`: (value / 255 - mean) / std for each channel.

    One multiplication and one addition in float32, as separate operations: if they were fused, rounding would depend
    on whether a value is in a full vector register or in the remainder, and so on the batch size.
    """
    scale = _constant(tuple(1 / (255 * s) for s in std), torch.float32, images.device)
    shift = _constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), torch.float32, images.device)
    return images.to(torch.float32).mul_(scale[:, None, None]).add_(shift[:, None, None]).to(dtype)


def mix_images(images: Tensor, plan: Augmentation) -> Tensor:
    """Mixup or cutmix of normalised float images [N, 3, H, W] with their partners; `images` if neither is on."""
    if plan.partner is None or plan.share is None:
        return images
    others = images[_to(plan.partner, images)]
    if plan.box is not None:
        return torch.where(_inside(_to(plan.box, images), images.shape[-1]), others, images)
    return _blend(images, others, _to(plan.share, images)[:, None, None, None])


def mix_targets(labels: Tensor, plan: Augmentation, num_classes: int) -> Tensor | None:
    """Soft targets float32 [N, num_classes] of mixed images, or None if nothing is mixed."""
    if plan.partner is None or plan.share is None:
        return None
    own = torch.nn.functional.one_hot(labels, num_classes).float()
    return _blend(own, own[_to(plan.partner, labels)], _to(plan.share, labels)[:, None])


def _blend(own: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """share · own + (1 - share) · others, each operation rounded separately (see `normalise`)."""
    return others.mul_(1 - share).add_(own * share)


def _inside(boxes: Tensor, size: int) -> Tensor:
    """bool [N, 1, size, size]: true inside each row's (top, bottom, left, right)."""
    position = torch.arange(size, device=boxes.device)
    rows = (position >= boxes[:, 0:1]) & (position < boxes[:, 1:2])
    columns = (position >= boxes[:, 2:3]) & (position < boxes[:, 3:4])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values on the device."""
    # a constant traced by an export must not be cached
    if device.type == "cuda" and not torch.compiler.is_compiling():
        return _cached_constant(values, dtype, device)
    return torch.tensor(values, dtype=dtype, device=device)


@cache
def _cached_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values on the device, cached: a copy to a GPU would wait for all queued work."""
    return torch.tensor(values, dtype=dtype, device=device)


def _to(values: np.ndarray, like: Tensor) -> Tensor:
    return pinned(values, like.device).to(like.device, non_blocking=True)
