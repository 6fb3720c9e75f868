"""The images of a run: both splits, and the order of the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dydist.config import Config
from dydist.data.dataset import ImageDataset, open_dataset
from dydist.data.order import Order


@dataclass(frozen=True)
class Splits:
    """`order` is that of `train`'s images; evaluations use `test`."""

    train: ImageDataset
    test: ImageDataset
    order: Order


def order_of(config: Config, size: int) -> Order:
    """The order of `size` training images for this configuration."""
    return Order(
        seed=config.seed,
        size=size,
        batch_size=config.train.batch_size,
        shards=config.parallel.shards,
        drop_last=config.data.drop_last,
    )


def open_splits(config: Config, progress: Callable[[str], None] = lambda text: None) -> Splits:
    """Open both splits. Raises UserError if images are missing, damaged, or fewer than a batch."""
    train, test = (open_dataset(config.data, split, progress=progress) for split in ("train", "test"))
    return Splits(train, test, order_of(config, len(train)))
