"""A trained network that is called on images as people have them: PIL images, or uint8 arrays [N, H, W, C]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dydist.data.augment import normalise
from dydist.data.description import DataDescription
from dydist.data.picture import as_square
from dydist.engine.core import AUTOCAST
from dydist.errors import UserError

Images = Image.Image | Sequence[Image.Image] | np.ndarray | Tensor


class Classifier(nn.Module):
    """A trained network with its preprocessing, in evaluation mode on the CPU; `to(device)` moves it.

    Called with images it gives logits, float32 [N, classes], on its device. Images: uint8 [N, H, W, C] or [H, W, C]
    with C = 1 or 3, as a numpy array or a tensor, or PIL images, one or a sequence. Images of another size than `side`
    are prepared as by `dydist predict`: upright, RGB, the largest square in the middle scaled (bicubic, antialiased).
    The normalisation, the precision and the attention's temperature are those of the training.

    Attributes:
        network: The bare network, for normalised images float32 [N, 3, side, side].
        classes: Names of the classes, in the order of the logits.
        side: Height and width in pixels that the network was trained on.
        step: The run's finished steps.
        accuracy: What the run logged for these weights on its evaluated split, a fraction; None if nothing.
    """

    def __init__(
        self, network: nn.Module, data: DataDescription, *, precision: str, step: int, accuracy: float | None
    ) -> None:
        super().__init__()
        self.network, self.step, self.accuracy = network, step, accuracy
        self.classes, self.side = data.classes, data.side
        self._mean, self._std, self._precision = data.mean, data.std, precision
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Images) -> Tensor:
        """Images, as the class says → logits float32 [N, classes]. Raises UserError for other values."""
        device = next(self.network.parameters()).device
        batch = as_batch(images, self.side).to(device)
        dtype = AUTOCAST.get(self._precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = self.network(normalise(batch, self._mean, self._std))
        return logits.float()

    def probabilities(self, images: Images) -> Tensor:
        """Images → probabilities, float64 [N, classes]."""
        return self.forward(images).double().softmax(1)

    def predict(self, images: Images) -> list[str]:
        """Images → the name of the most probable class of each."""
        return [self.classes[number] for number in self.forward(images).argmax(1).tolist()]


def as_batch(images: Images, side: int) -> Tensor:
    """Images → uint8 [N, 3, side, side]. Raises UserError for what `Classifier` does not take."""
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, np.ndarray | Tensor):
        if not images or not all(isinstance(one, Image.Image) for one in images):
            raise _refused(images)
        return torch.from_numpy(np.stack([as_square(one, side) for one in images]))
    batch = (
        images
        if isinstance(images, Tensor)
        else torch.from_numpy(np.require(images, requirements=["C", "W"]))
    )
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[3] not in (1, 3) or 0 in batch.shape:
        raise _refused(images)
    batch = batch.expand(-1, -1, -1, 3)
    if batch.shape[1:3] == (side, side):
        return batch.permute(0, 3, 1, 2).contiguous()
    pictures = [Image.fromarray(one.contiguous().numpy()) for one in batch.cpu()]
    return as_batch(pictures, side)


def _refused(images: Any) -> UserError:
    found = getattr(images, "shape", None)
    told = type(images).__name__ if found is None else f"{type(images).__name__} {images.dtype} {list(found)}"
    return UserError(
        f"images: {told} is not allowed; give uint8 [N, H, W, C] or [H, W, C] with C = 1 or 3, as a numpy array or a "
        "tensor, or PIL images"
    )
