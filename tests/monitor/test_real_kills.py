"""Real processes of a run, killed at random moments: what TensorBoard's own reader then shows."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.monitor import read_lines
from helpers.monitor_records import documented_tags
from helpers.support import REPOSITORY, Run, metrics, train

ELSEWHERE = r"_ema|gpu|^ranks/|^notes/"
"""Tags that a run on one process without a GPU, averaged weights and alerts does not have."""
EVERYTHING = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}


@pytest.mark.long
@pytest.mark.parametrize("kills", [3, 20])
def test_after_random_kills_each_series_has_each_step_once(kills: int, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    last = 20 + 9 * kills
    arguments = [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", tmp_path, "--run.name", "run"),
        *("--model.width", "0.0625", "--model.stem", "strided", "--parallel.threads", "1"),
        *("--train.epochs", 1 + last // 22, "--train.max_steps", last, "--train.eval_every_epochs", "0.5"),
        *("--monitor.every_steps", "1", "--monitor.histograms_every_steps", "7", "--monitor.quiet", "true"),
        *("--checkpoint.every_steps", "2", "--optim.warmup_epochs", "0", "--temperature.epochs", "1"),
    ]  # fmt: skip
    cut = []
    for life in range(kills):
        run = Run(arguments, 1, tmp_path / f"log-{life}")
        began = wait_for_steps(run, tmp_path / "run", life + 1, rng.randint(1, 6))
        time.sleep(rng.uniform(0, 0.05))  # any moment of a step, of a save, of an evaluation
        run.processes[0].kill()
        assert run.wait() == [-signal.SIGKILL], run.text()
        cut.append(began)
    train(arguments, 1, tmp_path / "log-end")
    print(f"seed {seed}: lives began at steps {cut}")
    check_each_step_is_there_once(tmp_path / "run", last)


def check_each_step_is_there_once(run_dir: Path, last: int) -> None:
    """A whole run of `last` steps with 22 an epoch, as TensorBoard's own reader sees it."""
    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=EVERYTHING)
    reader.Reload()
    tags = reader.Tags()
    steps = {tag: [event.step for event in reader.Scalars(tag)] for tag in tags["scalars"]}
    steps |= {tag: [event.step for event in reader.Histograms(tag)] for tag in tags["histograms"]}
    steps |= {tag: [event.step for event in reader.Images(tag)] for tag in tags["images"]}
    every = list(range(1, last + 1))
    evaluated = [line["step"] for line in metrics(run_dir, "evaluation")]
    assert evaluated == [*range(11, last, 11), last]
    for tag, found in steps.items():
        kind = tag.partition("/")[0]
        if kind in ("checkpoint", "images"):  # at saves, which may replace one another; at each life's start
            assert found == sorted(set(found)), (tag, found)
        elif kind in ("weights", "gradients"):
            assert found == every[6::7], (tag, found)
        elif (
            "test" in tag
            or kind in ("evaluation", "accuracy_by_class")
            or tag.endswith(("evaluation_s", "shares_over_time"))
        ):
            assert found == evaluated, (tag, found)
        else:
            assert found == every, (tag, found)
    assert [line["step"] for line in metrics(run_dir)] == every
    there = {*steps, *tags["tensors"]}
    for tag in documented_tags():
        pattern = re.sub(r"<\w+>", ".+", re.escape(tag))
        assert re.search(ELSEWHERE, tag) or any(re.fullmatch(pattern, found) for found in there), tag


def wait_for_steps(run: Run, run_dir: Path, lives: int, steps: int) -> int:
    """Wait until the run has begun its life number `lives` and logged `steps` steps of it; where it began."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert run.processes[0].is_alive(), run.text()
        starts = [line["step"] for line in read_lines(run_dir / "events.jsonl") if line["kind"] == "start"]
        if len(starts) == lives:
            done = [line["step"] for line in read_lines(run_dir / "metrics.jsonl") if line["kind"] == "step"]
            if done and done[-1] >= starts[-1] + steps:
                return int(starts[-1])
        time.sleep(0.005)
    raise AssertionError(run.text())
