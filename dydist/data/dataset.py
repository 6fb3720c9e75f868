"""`open_dataset`, which all of dydist uses to open data sets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from dydist.config import DataConfig
from dydist.config.data_sets import data_set

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of torchvision's pretrained networks."""


class Arrays(NamedTuple):
    """One split as its opener returns it: `images` uint8 [N,3,H,W], `labels` int64 [N], names of the classes.

    `mean`, `std`: as in `ImageDataset`, unless the data set's entry has them. `content`: a text that changes when a
    pixel or a label of the split does, where it is known without reading all images.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    content: str | None = None


class Opener(Protocol):
    """Opens one split of a data set; the arguments are those of `open_dataset`.

    Called at the same time by all processes of a node. Raises UserError.
    """

    def __call__(
        self,
        config: DataConfig,
        split: Literal["train", "test"],
        *,
        cache_dir: Path | None,
        progress: Callable[[str], None],
    ) -> Arrays: ...


@dataclass(frozen=True)
class ImageDataset:
    """One split, in memory shared between processes.

    `images`: uint8 [N,3,H,W], read-only. `labels`: int64 [N], read-only, 0 ≤ label < len(classes). `mean`, `std`: per
    channel over the training images, for values divided by 255 (0..1). `flip`: whether training flips images.
    `content`: as in `Arrays`.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool = False
    content: str | None = None

    def __len__(self) -> int:
        return len(self.images)


def mean_and_std_of_sums(
    sums: np.ndarray, squares: np.ndarray, pixels: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, 0..1, from sums of values 0..255 and of their squares, each [3].

    A channel with a single value has no deviation: it gets the deviation of one grey level.
    """
    mean = sums / (255 * pixels)
    std = np.sqrt((squares / (255**2 * pixels) - mean**2).clip(1 / 255**2))
    (a, b, c), (d, e, f) = ([round(float(value), 6) for value in values] for values in (mean, std))
    return (a, b, c), (d, e, f)


def _silent(_: str) -> None:
    """Discard a progress message."""


def open_dataset(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] = _silent,
) -> ImageDataset:
    """Open one split, limited to `config.limit` images.

    A folder of images is converted once, to memory-mapped arrays of `config.side` × `config.side` pixels. CIFAR is
    downloaded if it is missing, and converted in the same way (both splits, so that damage to either is reported
    before training).
    Processes of a node may call this concurrently: one converts, the others wait. `cache_dir` overrides the folder of
    converted arrays; `progress` is called with a line on each long operation.

    Raises:
        UserError: files are missing, damaged or unreadable, the download failed, or an extra is not installed.
    """
    known = data_set(config.name)
    module, _, function = known.opener.partition(":")
    opener: Opener = getattr(importlib.import_module(module), function)
    opened = opener(config, split, cache_dir=cache_dir, progress=progress)
    images, labels = opened.images[: config.limit], opened.labels[: config.limit]
    for array in (images, labels):
        array.setflags(write=False)
    mean, std = known.mean or opened.mean, known.std or opened.std
    if config.normalisation == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    assert mean is not None, f"{known.opener} gives no mean"
    assert std is not None, f"{known.opener} gives no standard deviation"
    return ImageDataset(
        images,
        labels,
        opened.classes,
        mean,
        std,
        flip=known.flip if config.flip is None else config.flip,
        content=None if opened.content is None else f"{opened.content}:{config.limit}",
    )
