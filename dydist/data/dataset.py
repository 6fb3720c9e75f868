"""`open_dataset`, through which all of dydist opens data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from dydist.config import DataConfig
from dydist.data import builtin
from dydist.data.cifar import LAYOUTS
from dydist.data.store import open_cifar


@dataclass(frozen=True)
class ImageDataset:
    """One split, in memory shared between processes.

    `images`: uint8 [N,3,H,W], read-only. `labels`: int64 [N], read-only, 0 ≤ label < len(classes). `mean`, `std`: per
    channel over the training images, for values divided by 255 (0..1).
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.images)


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

    CIFAR is downloaded if it is missing, and converted once to memory-mapped arrays (both splits, so that damage to
    either is reported before training). Processes of a node may call this concurrently: one converts, the others
    wait. `cache_dir` overrides the folder of converted arrays; `progress` is called with a line on each long
    operation.

    Raises:
        UserError: files are missing, damaged or unreadable, the download failed, or an extra is not installed.
    """
    if config.name == "digits":
        images, labels = builtin.digits(split)
        dataset = ImageDataset(images, labels, builtin.DIGIT_CLASSES, builtin.DIGITS_MEAN, builtin.DIGITS_STD)
    elif config.name == "synthetic":
        images, labels = builtin.synthetic(split, limit=config.limit)
        dataset = ImageDataset(
            images, labels, builtin.SYNTHETIC_CLASSES, builtin.SYNTHETIC_MEAN, builtin.SYNTHETIC_STD
        )
    else:
        layout = LAYOUTS[config.name]
        cached = open_cifar(
            layout, Path(config.root), allow_download=config.download, cache_dir=cache_dir, progress=progress
        )
        arrays = cached.splits[split]
        dataset = ImageDataset(arrays.images, arrays.labels, cached.classes, layout.mean, layout.std)
    if config.limit is not None:
        dataset = replace(
            dataset, images=dataset.images[: config.limit], labels=dataset.labels[: config.limit]
        )
    return dataset
