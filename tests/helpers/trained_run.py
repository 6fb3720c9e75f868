"""The run that the tests of inference look at."""

from __future__ import annotations

from pathlib import Path

from dydist.checkpoint import open_storage
from dydist.inference import TrainedModel, load_trained

STEPS = 30


def load(where: Path, **options: object) -> TrainedModel:
    return load_trained(str(where), open_storage, note=print, **options)  # type: ignore[arg-type]
