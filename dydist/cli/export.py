"""`dydist export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dydist.cli.checkpoint import Url
from dydist.cli.trained import describe, open_trained, print_json
from dydist.config.types import FilePath, Index
from dydist.text.display import show, tell


def export(
    checkpoint: Url,
    *,
    to: Literal["onnx", "torch-export", "safetensors"],
    output: Path | None = None,
    step: Index | None = None,
    ema: bool = False,
    data_root: FilePath | None = None,
    factory: str | None = None,
    storage_options: str = "{}",
    json: bool = False,
) -> int:
    """Write a trained network as one file for other programs, check it by running it, and write a model card.

    Normalisation, attention and temperature are inside: images as bytes (uint8 [N, 3, side, side], RGB, any N) go in,
    logits come out. The file is compared with the original before it appears. If it differs, nothing is written.

    Example: dydist export runs/cifar10 --to onnx --output cifar10.onnx

    Args:
        checkpoint: A step's folder, a place that holds several (the newest valid one is taken), or a run's folder.
        to: onnx (ONNX Runtime and others), torch-export (a .pt2 that torch runs), or safetensors (weights).
        output: The file. Default: the run's name and the step, here. The card is written to OUTPUT.json and OUTPUT.md.
        step: That step of a place.
        ema: Take the moving average of the weights.
        data_root: Folder of the data set, for checkpoints that do not name their classes.
        factory: package.module:function of the checkpoint that may be run here. Default: that of a run of yours.
        storage_options: fsspec options as JSON.
        json: Print what was written as JSON.
    """
    from dydist.inference import ExportError, export_trained
    from dydist.inference.formats import FORMATS

    model = open_trained(
        checkpoint, step=step, ema=ema, options=storage_options, data_root=data_root, factory=factory
    )
    average = "-ema" if ema else ""
    default = f"{model.config.run.name}-step-{model.step:09d}{average}{FORMATS[to].suffix}"
    try:
        written = export_trained(model, to, output or Path(default))
    except ExportError as error:
        tell(error)
        return 1
    if json:
        print_json(
            {
                **describe(model),
                "file": str(written.file),
                "card_json": str(written.card_json),
                "card_markdown": str(written.card_markdown),
                "largest_difference_of_a_logit": written.difference,
            }
        )
        return 0
    show(f"{written.file} ({written.file.stat().st_size:,} bytes)")
    show(f"checked: logits differ from the original by at most {written.difference:.2g}")
    show(f"model card: {written.card_markdown}, {written.card_json}")
    return 0


COMMANDS = {"export": export}
