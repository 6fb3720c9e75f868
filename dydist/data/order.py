"""The order of images: a pure function of (seed, epoch, step, shard), independent of the world size.

An epoch is a random permutation of the training images. Step `t` takes the t-th `batch_size` entries, and shard `j`
is the j-th of `shards` equal parts of these. So an epoch uses every image exactly once, seeking to a step is an array
slice, and a process only needs to know its shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from dydist.errors import UserError
from dydist.randomness import generator


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of a whole run.

    `size`: images in the data set. `held_out`: the sorted positions of those that are never dealt (int64 [N]), or None.
    `batch_size`: images of a global batch; a multiple of `shards`. `drop_last`: an
    epoch ends with the last full batch and skips the remaining images, which differ each epoch. Otherwise the last
    step uses the remaining images, fewer than `batch_size`; its shards differ in size by at most one (some are empty if
    fewer images than shards remain).
    """

    seed: int
    size: int
    batch_size: int
    shards: int
    drop_last: bool = True
    held_out: np.ndarray | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size % self.shards:
            raise UserError(
                f"train.batch_size: {self.batch_size} is no multiple of parallel.shards={self.shards}"
            )
        if self.steps_per_epoch == 0:
            raise UserError(
                f"train.batch_size: {self.batch_size} is more than the {self.dealt} training images there are; "
                f"use at most {self.dealt}, or data.drop_last=false"
            )

    @property
    def dealt(self) -> int:
        """Images of an epoch: those that are not held out."""
        return self.size - (0 if self.held_out is None else len(self.held_out))

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(self.dealt, self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def batch_count(self, step_in_epoch: int) -> int:
        """Number of images in the global batch of a step, counted from 0 within its epoch."""
        return min(self.batch_size, self.dealt - step_in_epoch * self.batch_size)

    def indices(self, step: int, shard: int) -> np.ndarray:
        """Images (int64 positions in the data set) of one shard at a step, counted from 0 within the run."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        chosen = shard_indices(
            self.seed,
            epoch,
            step_in_epoch,
            shard,
            size=self.dealt,
            batch_size=self.batch_size,
            shards=self.shards,
        )
        return chosen if self._kept is None else self._kept[chosen]

    @cached_property
    def _kept(self) -> np.ndarray | None:
        """The sorted positions of the images that are dealt; None: all."""
        return None if self.held_out is None else np.delete(np.arange(self.size), self.held_out)


def shard_indices(
    seed: int, epoch: int, step: int, shard: int, *, size: int, batch_size: int, shards: int
) -> np.ndarray:
    """Images of one shard: int64 positions in a data set of `size` images, in order.

    `step` counts within the epoch, from 0. Past the end of the epoch the result is empty. Takes one slice of the
    epoch's permutation (an array of `size` integers, cached for the newest two epochs).
    """
    start = step * batch_size
    count = max(0, min(batch_size, size - start))
    low, high = shard * count // shards, (shard + 1) * count // shards
    return epoch_permutation(seed, epoch, size)[start + low : start + high]


@lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of one epoch: a read-only int64 permutation of range(size)."""
    permutation = generator(seed, "order", epoch).permutation(size)
    permutation.setflags(write=False)
    return permutation


def rank_shards(rank: int, world_size: int, shards: int) -> range:
    """The consecutive shards of a process; the first `shards % world_size` ranks have one more, as in (3, 3, 2)."""
    base, extra = divmod(shards, world_size)
    start = rank * base + min(rank, extra)
    return range(start, start + base + (rank < extra))
