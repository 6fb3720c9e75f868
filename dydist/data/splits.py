"""The images of a run: both splits, and the order in which training images are dealt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dydist.config import Config
from dydist.data.dataset import ImageDataset, open_dataset
from dydist.data.order import Order


@dataclass(frozen=True)
class Splits:
    """`order` deals the images of `train`; `test` is what evaluations measure."""

    train: ImageDataset
    test: ImageDataset
    order: Order


def order_of(config: Config, size: int) -> Order:
    """The order in which a run of this configuration deals `size` training images."""
    return Order(
        seed=config.seed,
        size=size,
        batch_size=config.train.batch_size,
        shards=config.parallel.shards,
        drop_last=config.data.drop_last,
    )


def open_splits(config: Config, progress: Callable[[str], None] = lambda text: None) -> Splits:
    """Open both splits. Raises UserError where images are missing, damaged, or fewer than a batch."""
    train, test = (open_dataset(config.data, split, progress=progress) for split in ("train", "test"))
    return Splits(train, test, order_of(config, len(train)))
