"""Runs with a validation split: evaluated on it, the best chosen on it, the test split looked at once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from dydist.checkpoint import open_storage, survey
from dydist.cli.main import main
from dydist.compare.two import compare_runs
from helpers.support import REPOSITORY, Run, metrics, train

STEPS = 2 * 9
"""1,437 digits, 200 held out, batches of 128."""


def flags(runs: Path, name: str, *more: object) -> list[object]:
    return [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", runs, "--run.name", name),
        *("--train.epochs", "2", "--temperature.epochs", "1", "--data.validation", "200"),
        *("--model.width", "0.0625", "--monitor.every_steps", "1", "--parallel.reduce", "exact"),
        *("--train.batch_size", "128"),
        *("--checkpoint.keep", "1", "--train.eval_every_epochs", "0.5"),
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    text = train(flags(folder, "whole"), 1, folder / "log")
    assert "validation accuracy" in text
    return folder / "whole"


@pytest.fixture
def _numerics() -> Iterator[None]:
    """`dydist evaluate` takes the run's threads and kernels: the other tests have theirs back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def evaluated(run_dir: Path) -> list[tuple[Any, ...]]:
    lines = metrics(run_dir, "evaluation")
    return [(line["split"], line["step"], line["images"], line["loss"], line["accuracy"]) for line in lines]


def test_the_test_split_is_looked_at_once_and_the_best_is_chosen_without_it(whole: Path) -> None:
    lines = evaluated(whole)
    assert [(split, step, images) for split, step, images, _, _ in lines] == [
        *(("validation", step, 200) for step in (4, 8, 12, 16, STEPS)),
        ("test", STEPS, 360),
    ]
    validated = {step: accuracy for split, step, _, _, accuracy in lines if split == "validation"}
    status = json.loads((whole / "status.json").read_text())
    assert status["split"] == "validation"
    assert (status["accuracy"], status["best_accuracy"]) == (validated[STEPS], max(validated.values()))
    assert status["test_accuracy"] == lines[-1][-1]
    rated = {found.step: found.manifest for found in survey(open_storage(str(whole / "checkpoints")))}
    assert rated[STEPS] is not None
    assert rated[STEPS].accuracy == validated[STEPS]


@pytest.mark.long
def test_killed_and_on_two_processes_it_ends_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    cut = flags(tmp_path, "cut", "--checkpoint.every_steps", "4")
    run = Run(cut, 2, tmp_path / "log-cut", hold=11)
    run.wait_for_step(tmp_path / "cut", 11)
    run.signal(signal.SIGKILL)
    run.wait()
    text = train(cut, 1, tmp_path / "log-again")
    result = compare_runs(whole, tmp_path / "cut")
    assert result.equal, result
    assert result.steps_compared == STEPS
    assert evaluated(tmp_path / "cut") == evaluated(whole)
    assert "accuracy" in text
    again = train(cut, 1, tmp_path / "log-done")
    assert "already done" in again
    assert f"test accuracy {evaluated(whole)[-1][-1]:.2%}" in again


@pytest.mark.long
def test_three_processes_end_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    train(flags(tmp_path, "three"), 3, tmp_path / "log")
    assert compare_runs(whole, tmp_path / "three").equal
    assert evaluated(tmp_path / "three") == evaluated(whole)


def test_another_split_is_another_run(whole: Path, tmp_path: Path) -> None:
    for more in (("--data.validation", "100"), ("--data.validation_seed", "1")):
        text = train(flags(whole.parent, "whole", *more), 1, tmp_path / "log", code=2)
        assert f"{more[0][2:]}: {more[1]} is not what this run was started with" in text


@pytest.mark.usefixtures("_numerics")
def test_what_looks_at_a_run_names_the_split(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = evaluated(whole)
    by_split = {line[0]: line for line in lines}
    for split in ("validation", "test"):
        assert main(["compare", str(whole), "--json", "--split", split]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["accuracy"] == by_split[split][-1]
        assert main(["evaluate", str(whole), "--split", split]) == 0
        out = capsys.readouterr().out
        assert f"{by_split[split][2]} of the {split} split" in out
        assert f"(the run logged {by_split[split][-1]:.2%})" in out
    assert main(["evaluate", str(whole), "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1237
    assert main(["compare", str(whole), "--table"]) == 0
    assert "validation %" in capsys.readouterr().out
    assert main(["report", str(whole), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "best validation accuracy" in page
    assert "test accuracy at the end" in page
