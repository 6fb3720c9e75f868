"""Real training runs with their checkpoints on real servers: killed without warning, gone on, started from others."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from dydist.checkpoint import TrainingState, load, open_storage, survey
from dydist.compare.two import first_difference
from helpers.checkpoint_places import place_on
from helpers.support import REPOSITORY, Run, metrics, train


def flags(runs: Path, name: str, *more: object) -> list[object]:
    """A tiny network on digits: an epoch of 22 steps, a save every three."""
    values = {
        "run.dir": runs, "run.name": name, "train.epochs": 1, "optim.warmup_epochs": 0.5, "temperature.epochs": 1,
        "model.width": 0.0625, "monitor.every_steps": 1, "parallel.reduce": "exact", "checkpoint.every_steps": 3,
        "monitor.quiet": "true",
    }  # fmt: skip
    recipe = REPOSITORY / "launch/recipes/quickstart.yaml"
    return [
        "--config",
        recipe,
        *(part for name, value in values.items() for part in (f"--{name}", value)),
        *more,
    ]


def newest(url: str, options: dict[str, object]) -> TrainingState:
    storage = open_storage(url, options)
    return load(storage, next(found for found in survey(storage) if found.problem is None))


@pytest.mark.long
@pytest.mark.parametrize("store", ["s3", "sftp"])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_on(store, request)
    at = ["--checkpoint.url", place.url, "--checkpoint.storage_options", json.dumps(place.options)]
    train(flags(tmp_path, "whole"), 1, tmp_path / "logs" / "whole")
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    arguments = flags(tmp_path, "cut", *at, "--checkpoint.stage_dir", tmp_path / "stage")
    for attempt, (world_size, step) in enumerate(((2, 6), (3, 14))):
        run = Run(arguments, world_size, tmp_path / "logs" / f"cut{attempt}", hold=20, DYDIST_JOB="17")
        run.wait_for_step(tmp_path / "cut", step)
        time.sleep(rng.random() / 2)  # anywhere within a save
        run.signal(signal.SIGKILL)
        run.wait()
    text = train(arguments, 1, tmp_path / "logs" / "last", DYDIST_JOB="17")
    whole = newest(str(tmp_path / "whole" / "checkpoints"), {})
    cut = newest(place.url, dict(place.options))
    assert (whole.step, cut.step) == (22, 22)
    assert first_difference({**whole.model, **whole.optimizer}, {**cut.model, **cut.optimizer}) == (
        None,
        0.0,
    ), (seed, text)
    assert [line["step"] for line in metrics(tmp_path / "cut")] == list(range(1, 23))
    for name in ("config.yaml", "metrics.jsonl", "status.json"):
        assert "s3-secret-key" not in (tmp_path / "cut" / name).read_text()


def test_a_second_run_at_the_same_place_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    first = Run(flags(tmp_path, "run", "--train.epochs", "500"), 1, tmp_path / "logs" / "first")
    first.wait_for_step(tmp_path / "run", 2)
    written = (tmp_path / "run" / "config.yaml").read_text()
    text = train(flags(tmp_path, "run", "--train.epochs", "400"), 1, tmp_path / "logs" / "second", code=2)
    assert "run" in text
    assert str(first.processes[0].pid) in text or "host" in text
    assert (tmp_path / "run" / "config.yaml").read_text() == written
    assert json.loads((tmp_path / "run" / "status.json").read_text())["pid"] == first.processes[0].pid
    first.signal(signal.SIGTERM)
    assert first.wait() == [75], first.text()


@pytest.mark.long
def test_weights_of_another_run_are_a_start_also_for_other_classes(
    cifar100_exact_root: Path, tmp_path: Path
) -> None:
    few = ("--train.max_steps", "3")
    train(flags(tmp_path, "digits", *few), 1, tmp_path / "logs" / "digits")
    start = ("--checkpoint.resume", tmp_path / "digits" / "checkpoints")
    other = flags(
        tmp_path,
        "fine",
        "--data.name",
        "cifar100",
        "--data.root",
        cifar100_exact_root,
        *start,
        "--optim.lr",
        "0",
    )
    text = train([*other, *few], 1, tmp_path / "logs" / "refused", code=2)
    assert "checkpoint.resume: the checkpoint does not fit the network" in text
    text = train([*other, *few, "--checkpoint.resume_classes", "any"], 1, tmp_path / "logs" / "fine")
    before = newest(str(tmp_path / "digits" / "checkpoints"), {})
    after = newest(str(tmp_path / "fine" / "checkpoints"), {})
    assert after.step == 3
    assert after.model["fc.bias"].shape == (100,)
    assert after.model["layer1.0.conv1.weight"].equal(before.model["layer1.0.conv1.weight"])
