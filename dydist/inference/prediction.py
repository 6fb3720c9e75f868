"""Predictions of a trained model: classes, probabilities, and attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dydist.data.augment import normalise
from dydist.errors import UserError
from dydist.inference.trained import TrainedModel, autocast
from dydist.models.attention import Attention

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's `probabilities` by class name, highest first.

    `attention`: weights of the K kernels by dynamic layer, in the network's order; empty unless asked for.
    """

    probabilities: Mapping[str, float]
    attention: Mapping[str, tuple[float, ...]]


class AttentionRecorder:
    """Records the output of every attention in the last forward pass, [N, K] by layer name."""

    def __init__(self, network: nn.Module, stack: ExitStack) -> None:
        self.weights: dict[str, Tensor] = {}
        for name, part in network.named_modules():
            if isinstance(part, Attention):
                stack.callback(part.register_forward_hook(self._keeper(name.rpartition(".")[0])).remove)

    def _keeper(self, name: str):  # type: ignore[no-untyped-def]
        def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.weights[name] = output.detach()

        return keep


def predict(
    model: TrainedModel, pictures: Iterable[np.ndarray], *, top: int | None = None, attention: bool = False
) -> Iterator[Prediction]:
    """Predict for `pictures`, each uint8 [3, side, side], in order; in batches, on the network's device.

    `top`: number of classes per image, by default all. Raises UserError if attention is requested of a static
    network.
    """
    if attention and not any(isinstance(part, Attention) for part in model.network.modules()):
        raise UserError(
            "--attention: this network is static (model.kind), and has none; leave --attention out"
        )
    classes = model.data.classes
    count = len(classes) if top is None else min(top, len(classes))
    device = next(model.network.parameters()).device
    with ExitStack() as stack:
        recorder = AttentionRecorder(model.network, stack) if attention else None
        for batch in _batches(pictures):
            images = normalise(torch.from_numpy(batch).to(device), model.data.mean, model.data.std)
            with torch.no_grad(), autocast(model.config, device):
                logits = model.network(images)
            shares, order = logits.double().softmax(1).cpu().topk(count, dim=1)
            weights = (
                {} if recorder is None else {n: w.double().tolist() for n, w in recorder.weights.items()}
            )
            for row in range(len(batch)):
                named = zip(order[row].tolist(), shares[row].tolist(), strict=True)
                yield Prediction(
                    probabilities={classes[number]: share for number, share in named},
                    attention={name: tuple(of_images[row]) for name, of_images in weights.items()},
                )


def _batches(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
