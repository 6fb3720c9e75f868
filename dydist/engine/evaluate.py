"""Evaluation: every image once, split over the processes, with sums that do not depend on how it was split."""

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
    """Sums over a whole split: mean cross-entropy and the number of right images."""

    loss: float
    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """Fraction right."""
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

    The split is cut into blocks of `batch_size` images, dealt to processes in turn. A block's sums are computed
    by one process and added up in the order of the blocks in float64, so one and N processes agree to the bit
    where their kernels do. `together`: every call of `predict` is a collective (ZeRO-3 gathers the weights in it), so
    all processes make the same number of them. `observe(logits, labels)` sees the blocks of this process.
    `heartbeat()` is called after every block, so that a long evaluation is not taken for a hang.
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
        dist.all_reduce(shared)  # each block is non-zero on one process alone: nothing is rounded
        sums = shared.cpu()
    loss = sum(sums[:, 0].tolist()) / len(dataset)
    return Evaluation(loss=loss, correct=int(sums[:, 1].sum()), images=len(dataset))
