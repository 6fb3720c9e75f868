"""Exports a trained model: writes a temporary file, compares it with the original, and renames it."""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dydist.config import DataConfig
from dydist.data import open_dataset
from dydist.errors import UserError
from dydist.inference.card import model_card, to_markdown
from dydist.inference.formats import FORMATS, FormatName, Run
from dydist.inference.packaged import PackagedNetwork
from dydist.inference.trained import TrainedModel
from dydist.monitor.outputs.files import json_bytes, replace_file

CHECKED_IMAGES = 100
CHECKED_BATCHES = (1, 7, 64)
TOLERANCE, RELATIVE = 1e-4, 1e-5
"""Maximum difference of a logit: the first, or the second as a share of the largest logit where that is more."""


class ExportError(Exception):
    """An exported file computes other logits than the original. It is removed."""


@dataclass(frozen=True)
class Exported:
    """An exported file. `difference`: the maximum difference of a logit in the check."""

    file: Path
    card_json: Path
    card_markdown: Path
    difference: float


def export_trained(model: TrainedModel, to: FormatName, path: Path) -> Exported:
    """Write `model` to `path`, check it, and write its model card beside it (PATH.json and PATH.md).

    The check runs the file as users do, on `CHECKED_IMAGES` images in batches of 1, 7 and 64, and compares the logits
    with the original's. Only then is the file renamed to `path`, replacing any existing one. Raises ExportError if a
    logit differs by more than rounding explains, and UserError if a package is missing or the file cannot be written.
    """
    form = FORMATS[to]
    if missing := [name for name in form.packages if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"--to: {to} needs {', '.join(missing)}; install it with pip install 'dydist[export]'"
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}{form.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        form.write(model, draft)
        difference = check(model, form.open(draft))
        size = draft.stat().st_size
        os.replace(draft, path)
        checked = {
            "images": CHECKED_IMAGES,
            "batches": list(CHECKED_BATCHES),
            "largest_difference_of_a_logit": difference,
        }
        card = model_card(model, file=path.name, format=to, bytes=size, check=checked)
        card_json, card_markdown = (path.with_name(f"{path.name}{suffix}") for suffix in (".json", ".md"))
        replace_file(card_json, json_bytes(card, indent=1))
        replace_file(card_markdown, to_markdown(card).encode())
    except OSError as error:
        raise UserError(
            f"--output: cannot write {path} ({error.strerror or error}); give a file in a folder that can be written"
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return Exported(path, card_json, card_markdown, difference)


def check(model: TrainedModel, run: Run) -> float:
    """Compare an export with the original; returns the maximum difference. Raises ExportError if rounding is less."""
    side = model.data.side
    small = open_dataset(DataConfig(name="synthetic", limit=CHECKED_IMAGES), "test").images
    tiles = -(-side // small.shape[-1])
    images = np.tile(small, (tiles, tiles))[:, :, :side, :side].copy()
    original = PackagedNetwork(model.network.cpu(), model.data.mean, model.data.std)
    with torch.no_grad():
        expected = original(torch.from_numpy(images)).numpy()
    allowed = max(TOLERANCE, RELATIVE * float(np.abs(expected).max()))
    worst = 0.0
    for batch in CHECKED_BATCHES:
        found = np.concatenate(
            [run(images[start : start + batch]) for start in range(0, CHECKED_IMAGES, batch)]
        )
        if found.shape != expected.shape:
            raise ExportError(
                f"in batches of {batch} the export gives logits of shape {found.shape}, the original {expected.shape}; "
                "nothing was written. Please report this with the versions of torch and of the format's packages"
            )
        difference = float(np.abs(found - expected).max())
        if not difference <= allowed:
            raise ExportError(
                f"in batches of {batch} the export differs from the original by {difference:.3g} in a logit, allowed "
                f"are {allowed:.3g}; nothing was written. Try --to safetensors, which changes nothing, or other "
                "versions of torch and of the format's packages"
            )
        worst = max(worst, difference)
    return worst
