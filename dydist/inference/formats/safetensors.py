"""safetensors: the weights by plain name; the header has the values to build the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from dydist.inference.packaged import FORMAT, load_packaged
from dydist.inference.trained import TrainedModel

LOAD = """import torch
from dydist.inference import load_packaged

logits = load_packaged({file})(torch.from_numpy(images))"""


def write(model: TrainedModel, path: Path) -> None:
    """Write a .safetensors file."""
    described = {
        "model": asdict(model.config.model),
        "classes": model.data.classes,
        "mean": model.data.mean,
        "std": model.data.std,
        "side": model.data.side,
        "temperature": model.temperature,
        "origin": f"{model.config.run.name}, step {model.step}",
    }
    tensors = {
        name: tensor.detach().contiguous() for name, tensor in model.network.cpu().state_dict().items()
    }
    path.write_bytes(
        save(tensors, metadata={"format": "pt", "dydist": FORMAT, "network": json.dumps(described)})
    )


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that runs the file."""
    with safe_open(path, framework="pt") as file:  # just written, by this process
        factory = json.loads(file.metadata()["network"])["model"]["factory"]
    network = load_packaged(path, factory=factory)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = network(torch.from_numpy(images)).numpy()
        return logits

    return run
