"""Evaluates a trained model on a whole split, as its run did, with per-class accuracy and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dydist.data import ImageDataset
from dydist.data.folder import listed
from dydist.engine import World
from dydist.engine.evaluate import evaluate
from dydist.errors import UserError
from dydist.inference.calibration import Bin, calibration
from dydist.inference.trained import TrainedModel, autocast


@dataclass(frozen=True)
class ClassAccuracy:
    """One class: its `images`, how many of them are `correct`, and how many images are `predicted` as this class."""

    name: str
    images: int
    correct: int
    predicted: int

    @property
    def accuracy(self) -> float | None:
        """Fraction of the class's images that are correct (recall); None if it has none."""
        return self.correct / self.images if self.images else None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The result on a split. `loss`: mean cross-entropy. `calibration_error`: ECE with 15 bins, a fraction."""

    images: int
    correct: int
    loss: float
    calibration_error: float
    bins: list[Bin]
    classes: list[ClassAccuracy]

    @property
    def accuracy(self) -> float:
        """Fraction of correct images."""
        return self.correct / self.images


class _Outcomes:
    """Per image: the confidence in its predicted class, that class, and the true class. Called with each block."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self.blocks: list[np.ndarray] = []
        self._seen = seen

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        confidence = logits.double().softmax(1).amax(1)
        predicted = logits.argmax(1)  # not of the softmax, where rounding may make two classes equal
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
    """Evaluate on every image of `dataset`. Collective; the result is the same on all processes.

    Blocks, precision and temperature are those of the run's own evaluation, so the number of correct images equals
    the logged one on any number of processes. `flip`: average the probabilities of each image and its mirror image.
    Images are normalised as in training. `seen(images)` is called after each block of this process. Raises UserError
    if the data set and the network differ in their classes or in the size of the images.
    """
    if len(dataset.classes) != len(model.data.classes):
        raise UserError(
            f"--data-root: the data set has {len(dataset.classes)} classes, but the network was trained on "
            f"{len(model.data.classes)}; give the root of {model.config.data.name}"
        )
    if dataset.classes != model.data.classes:
        raise UserError(
            f"--data-root: the classes are {listed(dataset.classes)}, and the network was trained on "
            f"{listed(model.data.classes)}; give images of the same classes"
        )
    if (side := dataset.images.shape[-1]) != model.data.side:
        raise UserError(
            f"--data-root: the images have {side} pixels a side, and the network was trained on {model.data.side}; "
            "give images of that size"
        )
    dataset = replace(dataset, mean=model.data.mean, std=model.data.std)
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
    """Test-time augmentation: images [N, 3, H, W] → logarithm of the mean probabilities of both views."""

    def both(images: Tensor) -> Tensor:
        views = torch.stack([network(images).float(), network(images.flip(3)).float()])
        return views.log_softmax(2).logsumexp(0) - math.log(2)

    return both


def _in_order(by_rank: list[list[np.ndarray]]) -> np.ndarray:
    """Outcomes [3, N] in the order of the split: process r has blocks r, r + size, …"""
    count = sum(len(blocks) for blocks in by_rank)
    return np.concatenate(
        [by_rank[block % len(by_rank)][block // len(by_rank)] for block in range(count)], axis=1
    )
