"""Details of an evaluation: confusion matrix, top-5 accuracy, most confident mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MISTAKES = 16


@dataclass(frozen=True)
class Mistake:
    """Image `index` of the split, of class `label`, classified as `predicted` with probability `confidence`."""

    confidence: float
    index: int
    predicted: int
    label: int


class EvaluationStatistics:
    """Observes the blocks of one process (block rank, rank + size, …, as in dydist.engine.evaluate)."""

    def __init__(self, *, rank: int, size: int, block: int, classes: int, device: torch.device) -> None:
        self._next, self._stride = rank * block, size * block
        self._classes = classes
        self._sums = torch.zeros(classes * classes + 1, dtype=torch.int64, device=device)
        self._worst: list[Tensor] = []

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Logits float32 [n, classes] and labels int64 [n] of the next block of this process."""
        predicted = logits.argmax(1)
        pairs = torch.bincount(labels * self._classes + predicted, minlength=self._classes**2)
        top = logits.topk(min(5, self._classes), dim=1).indices
        within = (top == labels[:, None]).any(1).sum()
        self._sums += torch.cat([pairs, within[None]])
        confidence = logits.softmax(1).amax(1).masked_fill(predicted == labels, -1.0)
        best, rows = confidence.topk(min(MISTAKES, len(labels)))
        found = [best.double(), rows.double() + self._next, predicted[rows].double(), labels[rows].double()]
        self._worst.append(torch.stack(found, 1))
        self._next += self._stride

    def finish(self, gather: Callable[[Any], list[Any]]) -> tuple[list[list[int]], float, list[Mistake]]:
        """Over all processes: counts[true][predicted], top-5 accuracy, the most confident mistakes. Collective."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sums)
        *flat, within = self._sums.tolist()
        counts = [flat[row * self._classes : (row + 1) * self._classes] for row in range(self._classes)]
        rows = torch.cat(self._worst).tolist() if self._worst else []
        mine = sorted((row for row in rows if row[0] >= 0), reverse=True)[:MISTAKES]
        everyone = sorted((tuple(row) for rows in gather(mine) for row in rows), reverse=True)[:MISTAKES]
        mistakes = [Mistake(c, int(i), int(p), int(t)) for c, i, p, t in everyone]
        return counts, within / max(1, sum(flat)), mistakes
