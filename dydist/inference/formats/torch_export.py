"""torch.export: a program that torch runs without this package's code."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dydist.inference.formats.traced import trace
from dydist.inference.trained import TrainedModel

LOAD = """import torch

program = torch.export.load({file}).module()
logits = program(torch.from_numpy(images))"""


def write(model: TrainedModel, path: Path) -> None:
    """Write a .pt2 archive."""
    archive = io.BytesIO()  # so that a full disk is an OSError, not a RuntimeError of the archive writer
    torch.export.save(trace(model), archive)
    path.write_bytes(archive.getvalue())


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that runs the file."""
    program = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = program(torch.from_numpy(images)).numpy()
        return logits

    return run
