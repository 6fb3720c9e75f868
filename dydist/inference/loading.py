"""`dydist.load`: the trained network of a run, ready to be called on images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dydist.checkpoint import Storage
from dydist.checkpoint import open_patiently as open_place
from dydist.inference.classifier import Classifier
from dydist.inference.trained import load_trained


def load(
    run: str | os.PathLike[str],
    *,
    model: Callable[..., nn.Module] | nn.Module | None = None,
    step: int | None = None,
    averaged: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Classifier:
    """Load the network of a run, on the CPU and in evaluation mode, with its preprocessing. Every byte is verified.

    Args:
        run: A run's folder, its checkpoints' folder or URL (s3://, sftp://, …), or one checkpoint's. Of several the
            newest valid one is taken.
        model: The network, or the function that makes it, where the run was trained with one of your own that cannot
            be imported here. It is trusted; a function that a checkpoint of somebody else names is not called.
        step: That step instead of the newest.
        averaged: Take the moving average of the weights (`train.ema_decay`).
        storage_options: fsspec options of the store, over those of the run's configuration.

    Returns:
        A `Classifier`: uint8 [N, H, W, C] or PIL images → logits float32 [N, classes].

    Raises:
        UserError: There is no such checkpoint, or its network cannot be made here.
        CheckpointError: The store cannot be read.
    """
    given = dict(storage_options or {})

    def open_store(url: str, of_run: Mapping[str, Any]) -> Storage:
        return open_place(url, {**of_run, **given}, field="run", on_retry=_warn)

    trained = load_trained(os.fspath(run), open_store, step=step, averaged=averaged, model=model, note=_warn)
    return Classifier(
        trained.network,
        trained.data,
        precision=trained.config.train.precision,
        step=trained.step,
        accuracy=trained.accuracy,
    )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
