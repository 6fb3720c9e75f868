"""Measuring a trained model on a whole split, as its run did, and more closely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dydist.data import ImageDataset
from dydist.engine import World
from dydist.engine.evaluate import evaluate
from dydist.errors import UserError
from dydist.inference.calibration import Bin, calibration
from dydist.inference.trained import TrainedModel, autocast


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the split: `images` of it, `correct` of those recognised, `predicted` images taken for it."""

    name: str
    images: int
    correct: int
    predicted: int

    @property
    def accuracy(self) -> float | None:
        """Share of the class's images that were recognised (recall); None where there are none."""
        return self.correct / self.images if self.images else None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One pass over a split. `loss`: mean cross-entropy. `calibration_error`: ECE of 15 bins, a fraction."""

    images: int
    correct: int
    loss: float
    calibration_error: float
    bins: list[Bin]
    classes: list[ClassAccuracy]

    @property
    def accuracy(self) -> float:
        """Fraction right."""
        return self.correct / self.images


class _Outcomes:
    """Per image: the confidence in its predicted class, that class, and the true one. Block by block."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self.blocks: list[np.ndarray] = []
        self._seen = seen

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        confidence = logits.double().softmax(1).amax(1)
        predicted = logits.argmax(1)  # not the softmax's class: rounding can make two equal there
        self.blocks.append(torch.stack([confidence, predicted.double(), labels.double()]).cpu().numpy())
        self._seen(len(labels))


def evaluate_trained(
    model: TrainedModel,
    dataset: ImageDataset,
    world: World,
    *,
    flip: bool = False,
    seen: Callable[[int], None] = lambda images: None,
) -> EvaluationReport:
    """Evaluate on every image of `dataset`; called by all processes of `world`, the answer is the same on all.

    Blocks, precision and temperature are those of the run's own evaluation, so the number of right images is the one
    that the run logged, on any number of processes. `flip`: probabilities averaged over each image and its mirror
    image. `seen(images)` is told of each finished block of this process. Raises UserError where the classes of the
    data set are not the network's.
    """
    if len(dataset.classes) != len(model.data.classes):
        raise UserError(
            f"--data-root: the data set has {len(dataset.classes)} classes, but the network was trained on "
            f"{len(model.data.classes)}; give the root of {model.config.data.name}"
        )
    network = model.network.to(world.device)
    outcomes = _Outcomes(seen)
    with autocast(model.config, world.device):
        result = evaluate(
            mirrored(network) if flip else network,
            dataset,
            world,
            batch_size=model.config.train.eval_batch_size,
            observe=outcomes,
        )
    confidence, predicted, labels = _in_order(world.gather(outcomes.blocks))
    right = predicted == labels
    error, bins = calibration(confidence, right)
    classes = [
        ClassAccuracy(
            name=name,
            images=int((labels == number).sum()),
            correct=int(right[labels == number].sum()),
            predicted=int((predicted == number).sum()),
        )
        for number, name in enumerate(dataset.classes)
    ]
    return EvaluationReport(
        images=result.images,
        correct=result.correct,
        loss=result.loss,
        calibration_error=error,
        bins=bins,
        classes=classes,
    )


def mirrored(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Test-time augmentation: images [N, 3, H, W] → logarithms of the mean of both views' probabilities."""

    def both(images: Tensor) -> Tensor:
        views = torch.stack([network(images).float(), network(images.flip(3)).float()])
        return views.log_softmax(2).logsumexp(0) - np.log(2)

    return both


def _in_order(by_rank: list[list[np.ndarray]]) -> np.ndarray:
    """[3, N] in the order of the split: process r had blocks r, r + size, …"""
    count = sum(len(blocks) for blocks in by_rank)
    return np.concatenate(
        [by_rank[block % len(by_rank)][block // len(by_rank)] for block in range(count)], axis=1
    )
