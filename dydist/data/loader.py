"""The loader: the images of this process's shards on its device, prepared one step ahead.

A thread gathers, augments and normalises step t + 1 while step t trains. A step's batch depends only on the step and
the shards, so the loader can start at any step and has no state to save.
"""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dydist.config import DataConfig
from dydist.data.augment import (
    Augmentation,
    apply_augmentation,
    draw_augmentation,
    interleave,
    mix_images,
    mix_targets,
    normalise,
)
from dydist.data.dataset import ImageDataset
from dydist.data.order import Order
from dydist.data.pinned import pinned
from dydist.randomness import generator

HASH_BITS = 12
"""Bits of a shard's image hash: a sum over 4,096 shards is exact in float32."""


@dataclass(frozen=True)
class ShardGroup:
    """s shards of n images each, interleaved for one pass: row i·s + j is image i of `shards[j]`.

    `images` float32 [n·s, 3, H, W], normalised; `labels` int64 [n·s]; `targets` float32 [n·s, classes] with mixup or
    cutmix, else None; `data_hash`: sum of the shards' image hashes.
    """

    shards: tuple[int, ...]
    images: Tensor
    labels: Tensor
    targets: Tensor | None
    data_hash: int


@dataclass(frozen=True)
class StepBatch:
    """The work of one process at one step. `count`: images of the global batch, over all processes.

    `image_shape`: [C, H, W] of an image, also where there is none.
    """

    step: int
    count: int
    groups: tuple[ShardGroup, ...]
    image_shape: tuple[int, ...] = (3, 32, 32)


@dataclass(frozen=True)
class _HostGroup:
    shards: tuple[int, ...]
    images: Tensor
    labels: Tensor
    plan: Augmentation | None
    data_hash: int


class ShardedLoader:
    """Iterates over `StepBatch` from step `start` to `stop` (not included) for the given shards.

    `together=True` groups shards of equal size for one pass; with False each shard is its own group. `wait_s`:
    seconds for which the caller waited for the last item. Errors of the thread are raised in the caller. Close it
    when done, or use it as a context manager.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        config: DataConfig,
        order: Order,
        shards: Sequence[int],
        *,
        device: torch.device,
        start: int,
        stop: int,
        together: bool,
        depth: int = 2,
    ) -> None:
        self.dataset, self.config, self.order = dataset, config, order
        self.shards, self.device, self.together = tuple(shards), device, together
        self.wait_s = 0.0
        self._steps = range(start, stop)
        self._fill = tuple(round(255 * value) for value in dataset.mean)
        self._queue: queue.Queue[tuple[_HostGroup | ShardGroup, ...] | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dydist-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[StepBatch]:
        for step in self._steps:
            began = time.perf_counter()
            groups = self._queue.get()
            self.wait_s = time.perf_counter() - began
            if isinstance(groups, BaseException):
                raise groups
            ready = tuple(group if isinstance(group, ShardGroup) else self._finish(group) for group in groups)
            count = self.order.batch_count(step % self.order.steps_per_epoch)
            yield StepBatch(step, count, ready, self.dataset.images.shape[1:])

    def __enter__(self) -> ShardedLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread. Items not yet taken are dropped."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _work(self) -> None:
        try:
            for step in self._steps:
                groups: Sequence[_HostGroup | ShardGroup] = self._gather(step)
                if self.device.type == "cpu":  # on a GPU, the loop launches the rest on its own stream
                    groups = [self._finish(group) for group in groups if isinstance(group, _HostGroup)]
                if not self._put(tuple(groups)):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[_HostGroup | ShardGroup, ...] | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _gather(self, step: int) -> list[_HostGroup]:
        """Read this process's images of a step and draw their augmentation on the host."""
        indices = {shard: self.order.indices(step, shard) for shard in self.shards}
        filled = [shard for shard in self.shards if len(indices[shard])]
        if self.together:
            sizes = sorted({len(indices[shard]) for shard in filled}, reverse=True)
            groups = [tuple(s for s in filled if len(indices[s]) == size) for size in sizes]
        else:
            groups = [(shard,) for shard in filled]
        return [self._gather_group(step, group, [indices[shard] for shard in group]) for group in groups]

    def _gather_group(self, step: int, shards: tuple[int, ...], indices: list[np.ndarray]) -> _HostGroup:
        rows = np.stack(indices, axis=1).reshape(-1)
        images = self.dataset.images[rows]
        labels = self.dataset.labels[rows]
        plan = None
        if self.config.augment:
            size, count = images.shape[-1], len(indices[0])
            plan = interleave(
                [
                    draw_augmentation(
                        self.config,
                        generator(self.order.seed, "augment", step, shard),
                        count=count,
                        size=size,
                        flip=self.dataset.flip,
                    )
                    for shard in shards
                ]
            )
        data_hash = sum(
            shard_hash(shard, images[column :: len(shards)], labels[column :: len(shards)])
            for column, shard in enumerate(shards)
        )
        return _HostGroup(shards, pinned(images, self.device), pinned(labels, self.device), plan, data_hash)

    def _finish(self, host: _HostGroup) -> ShardGroup:
        """Move a group to the device and augment, normalise and mix it there."""
        plan = host.plan
        images = host.images.to(self.device, non_blocking=True)
        labels = host.labels.to(self.device, non_blocking=True)
        targets = None
        if plan is not None:
            images = apply_augmentation(images, plan, fill=self._fill)
        floats = normalise(images, self.dataset.mean, self.dataset.std)
        if plan is not None:
            floats = mix_images(floats, plan)
            targets = mix_targets(labels, plan, len(self.dataset.classes))
        return ShardGroup(host.shards, floats, labels, targets, host.data_hash)


def shard_hash(shard: int, images: np.ndarray, labels: np.ndarray) -> int:
    """A hash of HASH_BITS bits of a shard's images and labels before augmentation."""
    checksum = zlib.crc32(np.ascontiguousarray(images).data, shard)
    return zlib.crc32(np.ascontiguousarray(labels).data, checksum) & ((1 << HASH_BITS) - 1)
