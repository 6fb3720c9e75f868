"""A self-contained trained network: uint8 images in, logits out."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dydist.config import ModelConfig
from dydist.data.augment import normalise
from dydist.errors import UserError
from dydist.models import build_model, set_temperature

FORMAT = "1"
"""Version of the metadata in a packaged safetensors file."""


class PackagedNetwork(nn.Module):
    """uint8 RGB images [N, 3, side, side] → logits, float32 [N, classes].

    Includes the normalisation and the attention's temperature.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.network(normalise(images, self.mean, self.std))
        return logits


def load_packaged(path: str | PathLike[str], *, factory: str | None = None) -> PackagedNetwork:
    """Load a file of `dydist export --to safetensors`, in evaluation mode on the CPU.

    `factory`: the function, package.module:function, that makes the network, if it is not dydist's own. Raises
    UserError for other files, and for one that names another function.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("dydist") != FORMAT:
            raise UserError(
                f"{path}: not a network that this dydist packaged (metadata dydist={metadata.get('dydist')!r}, "
                f"expected {FORMAT!r}); make it with `dydist export CHECKPOINT --to safetensors`"
            )
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    described: dict[str, Any] = json.loads(metadata["network"])
    named = described["model"].get("factory")
    if named is not None and named != factory:
        raise UserError(
            f"{path}: names {named} with {described['model'].get('options')}, which would be run here; if you trust "
            f"it, call load_packaged(…, factory={named!r})"
        )
    shape = (3, described["side"], described["side"])
    network = build_model(ModelConfig(**described["model"]), len(described["classes"]), shape)
    network.load_state_dict(weights)
    set_temperature(network, described["temperature"])
    package = PackagedNetwork(network, tuple(described["mean"]), tuple(described["std"]))
    return package.eval().requires_grad_(False)


def example(side: int, images: int = 2) -> Tensor:
    """Example input for tracing: uint8 zeros [images, 3, side, side]."""
    return torch.zeros(images, 3, side, side, dtype=torch.uint8)
