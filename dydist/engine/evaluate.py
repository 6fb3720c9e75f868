"""Evaluation of every image once, distributed over the processes; the sums are independent of their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dydist.data.augment import normalise
from dydist.data.dataset import ImageDataset
from dydist.engine.world import World


@dataclass(frozen=True)
class Evaluation:
    """The result on a whole split: mean cross-entropy and the number of correct images."""

    loss: float
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct images."""
        return self.correct / self.images


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    world: World,
    *,
    batch_size: int,
    together: bool = False,
    observe: Callable[[Tensor, Tensor], None] | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate `predict` (normalised images float32 [n, 3, H, W] → logits [n, classes]) on all of `dataset`.

    The split is cut into blocks of `batch_size` images, dealt to the processes in turn. One process computes a
    block's sums, and they are added in float64 in the order of blocks, so 1 and N processes give equal bits if their
    kernels do. `together`: each call of `predict` is a collective (ZeRO-3 gathers the weights), so all processes make
    as many calls. `observe(logits, labels)` is called with the blocks of this process, `heartbeat()` after every
    block, so that a long evaluation does not look like a hang.
    """
    blocks = -(-len(dataset) // batch_size)
    sums = torch.zeros(blocks, 2, dtype=torch.float64)
    for block in range(world.rank, blocks, world.size):
        rows = slice(block * batch_size, (block + 1) * batch_size)
        images = torch.from_numpy(dataset.images[rows].copy()).to(world.device)
        labels = torch.from_numpy(dataset.labels[rows].copy()).to(world.device)
        logits = predict(normalise(images, dataset.mean, dataset.std)).float()
        if observe is not None:
            observe(logits, labels)
        loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
        sums[block] = torch.stack([loss, (logits.argmax(1) == labels).sum().double()]).cpu()
        heartbeat()
    if together and world.rank >= blocks % world.size > 0:
        image = torch.from_numpy(dataset.images[:1].copy()).to(world.device)
        predict(normalise(image, dataset.mean, dataset.std))
    if world.size > 1:
        shared = sums.to(world.device)
        dist.all_reduce(shared)  # each block is non-zero on one process only: nothing is rounded
        sums = shared.cpu()
    loss = sum(sums[:, 0].tolist()) / len(dataset)
    return Evaluation(loss=loss, correct=int(sums[:, 1].sum()), images=len(dataset))
