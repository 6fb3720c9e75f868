"""The loader on one core, against the rate at which training consumes images, and against torchvision."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dydist.bench.conv import train_step
from dydist.bench.pairs import Ratio, interleave
from dydist.config import DataConfig
from dydist.data import ImageDataset
from dydist.data.loader import ShardedLoader
from dydist.data.order import Order
from dydist.models.resnet import Stem

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class LoaderCost:
    """Seconds per image, one value per round: the loader on one core, torchvision with workers, a training step."""

    loader: list[float]
    torchvision: list[float]
    step: list[float]

    @property
    def over_step(self) -> Ratio:
        """Images that the loader prepares while a step on the same core consumes one."""
        return Ratio.of(self.step, self.loader)

    @property
    def over_torchvision(self) -> Ratio:
        """Images that the loader prepares on one core while all of torchvision's workers prepare one."""
        return Ratio.of(self.torchvision, self.loader)


def loader_cost(
    *, stem: Stem, width: float, batch_size: int, images: int, workers: int, pairs: int
) -> LoaderCost:
    """Measure crop, flip and normalisation of `images` images of 32 pixels, interleaved with a training step.

    torchvision gets the same images as PIL images, RandomCrop, RandomHorizontalFlip, ToTensor and Normalize in a
    DataLoader with persistent `workers`; it prepares a quarter of the images, as it is slower. The step is one of
    DY-ResNet18 on one core with one thread.
    """
    dataset = _dataset(images)
    quarter = max(batch_size, images // 4 // batch_size * batch_size)
    torchvision = _torchvision_loader(dataset, quarter, batch_size, workers)
    step = train_step("dynamic", stem, batch_size, width)

    def ours() -> None:
        with one_core():
            _drain(dataset, batch_size)

    def theirs() -> None:
        assert sum(len(labels) for _, labels in torchvision) == quarter  # to the end, so no worker runs later

    def one_step() -> None:
        with one_core():
            step()

    ways: dict[str, Callable[[], Any]] = {"loader": ours, "torchvision": theirs, "step": one_step}
    seconds = interleave(ways, pairs=pairs)
    counts = {
        "loader": len(dataset) // batch_size * batch_size,
        "torchvision": quarter,
        "step": batch_size,
    }
    return LoaderCost(**{name: [value / counts[name] for value in seconds[name]] for name in ways})


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this thread, and those it starts, to one core, with one torch thread (if the system supports pinning)."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if allowed is not None:
        os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def _drain(dataset: ImageDataset, batch_size: int) -> None:
    """Iterate over one epoch as a CPU run does, with 8 shards interleaved."""
    order = Order(seed=0, size=len(dataset), batch_size=batch_size, shards=8)
    steps = order.steps_per_epoch
    with ShardedLoader(
        dataset,
        DataConfig(name="cifar10"),
        order,
        range(8),
        device=torch.device("cpu"),
        start=0,
        stop=steps,
        together=True,
    ) as loader:
        taken = sum(len(batch.groups[0].labels) for batch in loader)
    assert taken == steps * batch_size


def _dataset(images: int) -> ImageDataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    return ImageDataset(pixels, rng.integers(0, 10, images), tuple("0123456789"), MEAN, STD, flip=True)


class PilImages(Dataset[Any]):
    """The same images, stored and returned as by torchvision's CIFAR10."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self._transform: Callable[[Any], torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        if self._transform is None:  # first call in a worker, which imports torchvision
            self._transform = _transforms()
        return self._transform(Image.fromarray(self.images[index])), int(self.labels[index])


def _transforms() -> Callable[[Any], torch.Tensor]:
    from dydist.data.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision import transforms

    composed: Callable[[Any], torch.Tensor] = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return composed


def _torchvision_loader(dataset: ImageDataset, images: int, batch_size: int, workers: int) -> DataLoader[Any]:
    rows = np.ascontiguousarray(dataset.images[:images].transpose(0, 2, 3, 1))
    return DataLoader(
        PilImages(rows, dataset.labels[:images]),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=multiprocessing.get_context("spawn") if workers else None,
    )
