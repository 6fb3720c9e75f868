"""The plain loop over images that every strategy must equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dydist.models.strategies import Geometry


def loop(x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Each image by itself: mix its kernel with a plain sum, then an ordinary convolution."""
    outputs = []
    for image, pi in zip(x, attention, strict=True):
        kernel = sum(pi[k] * weight[k] for k in range(weight.shape[0]))
        mixed = None if bias is None else sum(pi[k] * bias[k] for k in range(bias.shape[0]))
        outputs.append(F.conv2d(image[None], kernel, mixed, *geometry))  # type: ignore[arg-type]
    return torch.cat(outputs)
