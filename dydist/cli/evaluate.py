"""`dydist evaluate`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal

from dydist.cli.checkpoint import Url, progress
from dydist.cli.trained import describe, open_trained, print_json
from dydist.config.types import FilePath, Index
from dydist.text.display import cell, console, show

if TYPE_CHECKING:
    from dydist.inference import EvaluationReport, TrainedModel


def evaluate(
    checkpoint: Url,
    *,
    step: Index | None = None,
    split: Literal["test", "train", "validation"] = "test",
    data_root: FilePath | None = None,
    factory: str | None = None,
    ema: bool = False,
    flip: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    storage_options: str = "{}",
    json: bool = False,
) -> int:
    """Measure a checkpoint on its data set: accuracy, loss, each class, calibration error (ECE, 15 bins).

    The network, precision and temperature are those of the run at that step, so the accuracy equals the logged one.
    On several processes: accelerate launch --config_file launch/cpu_2.yaml -m dydist.cli.main evaluate …

    Example: dydist evaluate runs/cifar10 --json

    Example: dydist evaluate s3://bucket/cifar10/step-000001234 --data-root data --flip

    Args:
        checkpoint: A step's folder, a place that holds several (the newest valid one is taken), or a run's folder.
        step: That step of a place.
        split: Which images. validation: those that the run held out of training; train: the rest.
        data_root: Folder of the data set. Default: the run's data.root.
        factory: package.module:function of the checkpoint that may be run here. Default: that of a run of yours.
        ema: Take the moving average of the weights.
        flip: Test-time augmentation: average the probabilities over each image and its mirror image.
        device: auto uses the GPU if there is one.
        storage_options: fsspec options as JSON, such as '{"endpoint_url": "http://host:9000"}'.
        json: Print JSON.
    """
    from dataclasses import replace

    from dydist.data.splits import open_split
    from dydist.engine import start_world
    from dydist.inference import evaluate_trained
    from dydist.inference.trust import refuse_foreign_code
    from dydist.process.launcher import join_step
    from dydist.process.launcher_settings import apply_launcher_settings
    from dydist.run.assemble import prepare_environment

    model = open_trained(
        checkpoint, step=step, ema=ema, options=storage_options, data_root=data_root, factory=factory
    )
    config = model.config
    refuse_foreign_code(config, "data", where=checkpoint, given=factory)
    prepare_environment(config)  # before the first matrix product, at which MKL reads the variables
    dataset = open_split(replace(config.data, root=data_root or config.data.root, download=False), split)
    here, _ = apply_launcher_settings(
        {
            "train": {"precision": config.train.precision, "compile": False},
            "parallel": {"engine": "ddp", "device": device},
        },
        os.environ,
    )
    join_step(os.environ)
    world = start_world(replace(config, parallel=replace(config.parallel, device=here["parallel"]["device"])))
    began = time.monotonic()
    try:
        with progress("evaluating", -(-len(dataset) // world.size), shown=world.rank == 0) as seen:
            report = evaluate_trained(model, dataset, world, flip=flip, seen=seen)
    finally:
        world.close()
    if world.rank != 0:
        return 0
    about = {
        **describe(model),
        "split": split,
        "flip": flip,
        "processes": world.size,
        "device": str(world.device),
        "seconds": time.monotonic() - began,
    }
    _print_json(report, about) if json else _print_table(report, about, model)
    return 0


def _print_json(report: EvaluationReport, about: dict[str, Any]) -> None:
    from dataclasses import asdict

    classes = [{**asdict(one), "accuracy": one.accuracy} for one in report.classes]
    print_json({**about, **asdict(report), "accuracy": report.accuracy, "classes": classes})


def _print_table(report: EvaluationReport, about: dict[str, Any], model: TrainedModel) -> None:
    from rich.table import Table

    weights = "averaged weights" if model.averaged else "weights"
    views = ", each with its mirror image" if about["flip"] else ""
    by_split = {model.config.data.evaluated_split: model.accuracy, "test": model.test_accuracy}
    accuracy = by_split.get(about["split"])
    logged = "" if accuracy is None else f" (the run logged {accuracy:.2%})"
    show(f"checkpoint    {model.url}")
    show(f"network       {weights} after step {model.step}, temperature {model.temperature:g}")
    show(f"images        {report.images:,} of the {about['split']} split{views}")
    show(f"accuracy      {report.accuracy:.2%}, {report.correct:,} right{logged}")
    show(f"loss          {report.loss:.5f}")
    show(f"calibration   error {report.calibration_error:.4f} (15 bins)")
    show(f"time          {about['seconds']:.1f} s on {about['device']}, processes: {about['processes']}")
    table = Table("class", "images", "right", "accuracy", "predicted")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in report.classes:
        share = "–" if one.accuracy is None else f"{one.accuracy:.2%}"
        table.add_row(cell(one.name), str(one.images), str(one.correct), share, str(one.predicted))
    console().print(table)


COMMANDS = {"evaluate": evaluate}
