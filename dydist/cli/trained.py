"""Shared by `dydist evaluate`, `predict` and `export`: opening the checkpoint that the user names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dydist.cli.checkpoint import open_place, parse_options
from dydist.text.display import tell

if TYPE_CHECKING:
    from dydist.checkpoint import Storage
    from dydist.inference import TrainedModel


def open_trained(
    checkpoint: str,
    *,
    step: int | None,
    ema: bool,
    options: str,
    data_root: str | None,
    factory: str | None,
) -> TrainedModel:
    """The network of a checkpoint. `options`: fsspec options as JSON, over those of a run's configuration."""
    from dydist.inference import load_trained

    given = parse_options(options)

    def open_with(url: str, of_run: Mapping[str, Any]) -> Storage:
        return open_place(url, {**of_run, **given}, field="checkpoint")

    return load_trained(
        checkpoint, open_with, step=step, averaged=ema, data_root=data_root, factory=factory, note=note
    )


def note(text: str) -> None:
    """Show a note to the user on standard error, once per node."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        tell(text)


def describe(model: TrainedModel) -> dict[str, Any]:
    """The network of a result, as the first values of JSON output."""
    return {
        "checkpoint": model.url,
        "run": model.config.run.name,
        "step": model.step,
        "ema": model.averaged,
        "temperature": model.temperature,
    }


def print_json(values: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(values, indent=1))
