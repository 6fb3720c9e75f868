"""The loader: what it yields depends on step and shard alone, and its thread neither hides errors nor stays behind."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from dydist.config import DataConfig
from dydist.data import ImageDataset, open_dataset
from dydist.data.loader import ShardedLoader, StepBatch, shard_hash
from dydist.data.order import Order

CPU = torch.device("cpu")
CONFIG = DataConfig(name="synthetic", limit=64, mixup=0.3, cutout=6)


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return open_dataset(CONFIG, "train")


def order(dataset: ImageDataset, shards: int = 4) -> Order:
    return Order(seed=3, size=len(dataset), batch_size=16, shards=shards)


def load(dataset: ImageDataset, shards: range, start: int, stop: int, *, together: bool) -> list[StepBatch]:
    with ShardedLoader(
        dataset, CONFIG, order(dataset), shards, device=CPU, start=start, stop=stop, together=together
    ) as loader:
        return list(loader)


def test_shards_computed_together_are_the_shards_computed_alone(dataset: ImageDataset) -> None:
    together = load(dataset, range(4), 0, 3, together=True)
    alone = load(dataset, range(4), 0, 3, together=False)
    for joint, single in zip(together, alone, strict=True):
        (group,) = joint.groups
        assert group.shards == (0, 1, 2, 3)
        assert group.data_hash == sum(one.data_hash for one in single.groups)
        for column, one in enumerate(single.groups):
            assert torch.equal(group.images[column::4], one.images)
            assert torch.equal(group.labels[column::4], one.labels)
            assert group.targets is not None
            assert one.targets is not None
            assert torch.equal(group.targets[column::4], one.targets)


def test_starting_in_the_middle_and_owning_fewer_shards_changes_nothing(dataset: ImageDataset) -> None:
    whole = load(dataset, range(4), 0, 9, together=False)
    part = load(dataset, range(1, 3), 6, 9, together=False)
    for mine, theirs in zip(part, whole[6:], strict=True):
        assert mine.step == theirs.step
        for one, other in zip(mine.groups, theirs.groups[1:3], strict=True):
            assert one.shards == other.shards
            assert torch.equal(one.images, other.images)


def test_starting_late_reads_nothing_of_what_came_before(dataset: ImageDataset) -> None:
    class Counting:
        def __init__(self, images: np.ndarray) -> None:
            self.images, self.reads, self.shape = images, 0, images.shape

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.reads += len(rows)
            return self.images[rows]

        def __len__(self) -> int:
            return len(self.images)

    counted = Counting(dataset.images)
    late = replace(dataset, images=counted)  # type: ignore[arg-type]
    assert len(load(late, range(4), 10**6, 10**6 + 2, together=True)) == 2
    assert counted.reads == 2 * 16


def test_an_error_of_the_thread_is_the_callers(dataset: ImageDataset) -> None:
    broken = replace(dataset, labels=dataset.labels[:1])
    with pytest.raises(IndexError):
        load(broken, range(4), 0, 3, together=True)


def test_closing_early_ends_the_thread(dataset: ImageDataset) -> None:
    before = threading.active_count()
    with ShardedLoader(
        dataset, CONFIG, order(dataset), range(4), device=CPU, start=0, stop=10**9, together=True
    ) as loader:
        next(iter(loader))
        assert loader.wait_s >= 0
    assert threading.active_count() == before


def test_a_hash_tells_other_images_other_labels_and_other_shards(dataset: ImageDataset) -> None:
    images, labels = dataset.images[:8], dataset.labels[:8]
    marks = {
        shard_hash(0, images, labels),
        shard_hash(1, images, labels),
        shard_hash(0, dataset.images[1:9], labels),
        shard_hash(0, images, labels[::-1]),
    }
    assert len(marks) == 4
    assert max(marks) < 4096


def test_without_augmentation_images_are_only_normalised(dataset: ImageDataset) -> None:
    plain = replace(CONFIG, augment=False, mixup=0.0, cutout=0)
    with ShardedLoader(
        dataset, plain, order(dataset), range(4), device=CPU, start=0, stop=1, together=False
    ) as loader:
        (batch,) = list(loader)
    rows = order(dataset).indices(0, 0)
    expected = (dataset.images[rows] / 255 - 0.5) / np.array(dataset.std)[:, None, None]
    expected += (0.5 - np.array(dataset.mean)[:, None, None]) / np.array(dataset.std)[:, None, None]
    np.testing.assert_allclose(batch.groups[0].images.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert batch.groups[0].targets is None
