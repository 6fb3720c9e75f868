"""The images of a run: its splits, and the order of the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dydist.config import Config, DataConfig
from dydist.data.dataset import ImageDataset, open_dataset
from dydist.data.order import Order
from dydist.errors import UserError
from dydist.randomness import generator


@dataclass(frozen=True)
class Splits:
    """`order` is the order of `train`'s images. `train` contains `validation`'s images too, but `order` skips them.

    `validation` is None without `data.validation`.
    """

    train: ImageDataset
    test: ImageDataset
    order: Order
    validation: ImageDataset | None = None

    @property
    def evaluated(self) -> ImageDataset:
        """The images of `DataConfig.evaluated_split`."""
        return self.test if self.validation is None else self.validation


def held_out(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Choose `count` images as a validation split; returns their sorted positions, int64 [count].

    Every class provides the same share of its images, to within one image. A smaller split of the same seed is a
    subset of a larger one. `labels`: int64 [N]. Depends on nothing else, so all runs on a data set share it.

    Raises UserError if `count` is less than one image of each class, or leaves a class without training images.
    """
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if count < len(places):
        raise UserError(
            f"data.validation: {count} images cannot hold one of each of the {len(places)} classes; use at least "
            f"{len(places)}"
        )
    share, rank = np.empty(len(labels)), np.empty(len(labels), dtype=np.int64)
    for number, own in enumerate(places):
        shuffled = own[generator(seed, "validation", number).permutation(len(own))]
        share[shuffled] = np.arange(len(own)) / len(own)
        rank[shuffled] = number
    chosen = np.sort(np.lexsort((rank, share))[:count])
    left = np.delete(labels, chosen)
    if len(np.unique(left)) < len(places):
        raise UserError(
            f"data.validation: {count} of {len(labels)} training images would leave a class without any to train on; "
            "use fewer"
        )
    return chosen


def order_of(config: Config, size: int, held_out: np.ndarray | None = None) -> Order:
    """The order of `size` images for this configuration, without those at the positions `held_out`."""
    return Order(
        seed=config.seed,
        size=size,
        held_out=held_out,
        batch_size=config.train.batch_size,
        shards=config.parallel.shards,
        drop_last=config.data.drop_last,
    )


def open_splits(config: Config, progress: Callable[[str], None] = lambda text: None) -> Splits:
    """Open all splits. Raises UserError if images are missing, damaged, or fewer than a batch."""
    train, test = (open_dataset(config.data, split, progress=progress) for split in ("train", "test"))
    out = _held_out(config.data, train)
    order = order_of(config, len(train), out)
    return Splits(train, test, order, None if out is None else _select(train, out))


def open_split(data: DataConfig, split: Literal["train", "validation", "test"]) -> ImageDataset:
    """Open the images of one split: those a run trains on, those it holds out, or the test split.

    Raises UserError as `open_splits` does, and if the configuration has no validation split.
    """
    if split == "test":
        return open_dataset(data, split)
    train = open_dataset(data, "train")
    out = _held_out(data, train)
    if split == "validation":
        if out is None:
            raise UserError("--split: the run held no images out (data.validation); use test or train")
        return _select(train, out)
    return train if out is None else _select(train, np.delete(np.arange(len(train)), out))


def _held_out(data: DataConfig, train: ImageDataset) -> np.ndarray | None:
    return (
        None
        if data.validation is None
        else held_out(train.labels, data.validation, seed=data.validation_seed)
    )


def _select(dataset: ImageDataset, positions: np.ndarray) -> ImageDataset:
    """The images at these positions, copied."""
    images, labels = dataset.images[positions], dataset.labels[positions]
    for array in (images, labels):
        array.setflags(write=False)
    return replace(dataset, images=images, labels=labels)
