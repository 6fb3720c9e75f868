"""A finished run measured again: the log's figures, on one and two processes; classes, calibration, mirror images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dydist.cli.main import main
from dydist.config import Config, ParallelConfig
from dydist.data import ImageDataset
from dydist.data.augment import normalise
from dydist.engine import start_world
from dydist.errors import UserError
from dydist.inference import TrainedModel, evaluate_trained
from dydist.inference.evaluation import mirrored
from helpers.support import REPOSITORY, command, free_port, metrics


def logged(run_dir: Path, *, ema: bool) -> dict[str, Any]:
    return [line for line in metrics(run_dir, "evaluation") if line["ema"] is ema][-1]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def evaluated_alone(run_dir: Path, *arguments: str) -> dict[str, Any]:
    """The same in a fresh process: MKL heeds what it is told of bits only before a process's first product."""
    words = ("evaluate", run_dir, *arguments, "--json")
    code, text = command(words, cwd=REPOSITORY, log=run_dir.parent / "evaluated", env=os.environ)
    assert code == 0, text
    found: dict[str, Any] = json.loads(text)
    return found


def evaluated_by_launch(run_dir: Path, *launch: str) -> dict[str, Any]:
    words = [sys.executable, *launch, "-m", "dydist.cli.main", "evaluate", str(run_dir), "--json"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def logits(model: TrainedModel, test_set: ImageDataset) -> torch.Tensor:
    with torch.no_grad():
        return model.network(normalise(torch.from_numpy(test_set.images.copy()), test_set.mean, test_set.std))


@pytest.mark.parametrize("ema", [pytest.param(False, marks=pytest.mark.long), True])
def test_it_gives_what_the_log_says(ema: bool, run_dir: Path) -> None:
    line = logged(run_dir, ema=ema)
    found = evaluated_alone(run_dir, *(["--ema"] if ema else []))
    assert (found["step"], found["images"], found["ema"]) == (line["step"], line["images"], ema)
    assert found["correct"] == round(line["accuracy"] * line["images"])
    assert found["accuracy"] == line["accuracy"]
    assert found["loss"] == line["loss"]


@pytest.mark.long
def test_two_processes_say_the_same(run_dir: Path) -> None:
    """Three blocks are dealt to two processes."""
    launch = ("-m", "accelerate.commands.launch", "--config_file", "launch/cpu_2.yaml")
    two = evaluated_by_launch(run_dir, *launch, "--main_process_port", str(free_port()))
    one = evaluated_alone(run_dir)
    assert (two.pop("processes"), one.pop("processes")) == (2, 1)
    assert two["correct"] == round(logged(run_dir, ema=False)["accuracy"] * two["images"])
    for name in ("loss", "calibration_error", "classes", "bins", "correct"):
        assert two[name] == one[name], name


def test_classes_and_calibration_are_those_of_the_logits(
    run_dir: Path, test_set: ImageDataset, logits: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, run_dir)
    predicted = logits.argmax(1).numpy()
    right = predicted == test_set.labels
    for number, one in enumerate(found["classes"]):
        assert one["name"] == test_set.classes[number]
        assert one["images"] == (test_set.labels == number).sum()
        assert one["correct"] == right[test_set.labels == number].sum()
        assert one["predicted"] == (predicted == number).sum()
    confidence = logits.double().softmax(1).amax(1).numpy()
    parts = np.ceil(confidence * 15)
    gaps = [abs(right[parts == part].sum() - confidence[parts == part].sum()) for part in np.unique(parts)]
    assert found["calibration_error"] == pytest.approx(sum(gaps) / len(right), rel=1e-5)


def test_flip_averages_the_probabilities_of_both_views(
    run_dir: Path,
    model: TrainedModel,
    test_set: ImageDataset,
    logits: torch.Tensor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = normalise(torch.from_numpy(test_set.images.copy()), test_set.mean, test_set.std)
    with torch.no_grad():
        other = model.network(images.flip(3))
        both = mirrored(model.network)(images)
    expected = (logits.softmax(1) + other.softmax(1)) / 2
    torch.testing.assert_close(both.exp(), expected)
    found = evaluated(capsys, run_dir, "--flip")
    assert found["correct"] == int((expected.argmax(1).numpy() == test_set.labels).sum())
    assert found["flip"] is True
    assert found["loss"] != pytest.approx(logged(run_dir, ema=False)["loss"], rel=1e-4)


def test_the_table_names_what_was_measured(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run_dir), "--step", "20", "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert "weights after step 20, temperature " in out
    assert "5,085 of the train split" in out
    assert "automobile" in out


def test_mistakes(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "checkpoint: no valid checkpoint at" in capsys.readouterr().err
    assert main(["evaluate", str(run_dir), "--data-root", str(tmp_path / "none"), "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_images_of_another_size_are_refused(model: TrainedModel, test_set: ImageDataset) -> None:
    config = Config(parallel=ParallelConfig(device="cpu"))
    smaller = replace(test_set, images=test_set.images[:, :, ::2, ::2])
    with pytest.raises(UserError, match="--data-root: the images have 16 pixels a side"):
        evaluate_trained(model, smaller, start_world(config))
