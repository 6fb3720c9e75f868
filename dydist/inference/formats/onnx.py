"""ONNX, for ONNX Runtime and other tools. One file, including the weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dydist.inference.formats.traced import trace
from dydist.inference.trained import TrainedModel

INPUT, OUTPUT = "images", "logits"
LOAD = """import onnxruntime

session = onnxruntime.InferenceSession({file})
(logits,) = session.run(None, {{"images": images}})"""


def write(model: TrainedModel, path: Path) -> None:
    """Write a .onnx file with torch's recommended operator set. Its metadata contain the class names."""
    import torch

    traced = trace(model)
    with warnings.catch_warnings():
        # torch 2.13's exporter uses a pytree class that torch 2.13 deprecates
        warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
        program = torch.onnx.export(traced, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert program is not None
    properties = {
        "classes": json.dumps(model.data.classes),
        "temperature": str(model.temperature),
        "origin": f"{model.config.run.name}, step {model.step}",
    }
    program.model.metadata_props.update(properties)
    program.save(path, external_data=False)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that runs the file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        (logits,) = session.run([OUTPUT], {INPUT: images})
        return np.asarray(logits)

    return run
