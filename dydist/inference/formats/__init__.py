"""The formats of exported networks. Each can write a file and run it.

- `traced`: the network as a torch.export program, which two formats use
- `onnx`, `torch_export`, `safetensors`: one format each
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dydist.inference.formats import onnx, safetensors, torch_export
from dydist.inference.trained import TrainedModel

FormatName = Literal["onnx", "torch-export", "safetensors"]
Run = Callable[[np.ndarray], np.ndarray]
"""uint8 images [N, 3, side, side] → logits float32 [N, classes]."""


@dataclass(frozen=True)
class Format:
    """`write(model, path)` writes a file; `open(path)` returns a function that runs it; `load` is code that does.

    In `load`, {file} is replaced by the file's name as a Python string, and `images` is uint8 [N, 3, side, side].
    `packages`: those needed besides torch.
    """

    suffix: str
    write: Callable[[TrainedModel, Path], None]
    open: Callable[[Path], Run]
    load: str
    packages: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", onnx.write, onnx.open_file, onnx.LOAD, ("onnx", "onnxscript", "onnxruntime")),
    "torch-export": Format(".pt2", torch_export.write, torch_export.open_file, torch_export.LOAD, ()),
    "safetensors": Format(
        ".safetensors", safetensors.write, safetensors.open_file, safetensors.LOAD, ("safetensors",)
    ),
}
