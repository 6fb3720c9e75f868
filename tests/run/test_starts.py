"""What a start tells and leaves in the run folder, also one that does nothing: done already, refused, broken off."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from dydist.compare.many import read_result
from dydist.config import DataConfig
from dydist.data import open_dataset
from dydist.data.dataset import Arrays
from dydist.data.description import DataDescription
from helpers.digit_runs import FEW, FEW_STEPS, files, flags, steps_saved
from helpers.support import Run, metrics, train


def rate_of(run_dir: Path) -> float:
    """The learning rate that `dydist compare` believes a run was trained with."""
    result = read_result(run_dir)
    assert result is not None
    return float(result.settings["optim.lr"])


def break_first_step() -> None:
    """Let the process fail within its first step."""
    from dydist.engine.core import TorchEngine

    def train_step(self: TorchEngine, *arguments: Any, **more: Any) -> Any:
        raise MemoryError("no memory for the first step")

    TorchEngine.train_step = train_step  # type: ignore[method-assign]


def break_strategies() -> None:
    """Let the process fail when it has read its checkpoint and not begun a step."""
    from dydist.run import strategies as run_strategies

    def settle(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("no kernels")

    run_strategies.assign_strategies = settle


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_finished_run_started_with_another_configuration_keeps_its_own(
    world_size: int, tmp_path: Path
) -> None:
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    before = files(tmp_path / "run")
    other = flags(tmp_path, "run", *FEW, "--optim.lr", "0.7", "--train.label_smoothing", "0.1")
    text = train(other, world_size, tmp_path / "log2")
    assert files(tmp_path / "run") == before
    assert text.count("already done: step 6 of 6") == 1
    assert "going on" not in text
    assert "from here on" not in text  # nothing goes on with it
    assert rate_of(tmp_path / "run") == 0.05


def test_a_finished_run_that_a_kill_left_as_running_says_that_it_is_done(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    path = tmp_path / "run" / "status.json"
    ended = json.loads(path.read_text())
    path.write_text(json.dumps({**ended, "state": "running"}))
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log2")
    assert {**json.loads(path.read_text()), "updated": 0} == {**ended, "updated": 0}


@pytest.mark.parametrize("broken", [break_first_step, break_strategies])
def test_a_start_that_fails_before_its_first_step_leaves_the_configuration_and_names_the_step(
    broken: Any, tmp_path: Path
) -> None:
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    before = files(tmp_path / "run")
    more = flags(tmp_path, "run", *FEW, "--train.max_steps", "9", "--optim.lr", "0.7")
    told = tmp_path / "exit"
    text = train(more, 1, tmp_path / "log2", code=1, before=broken, DYDIST_EXIT_DIR=str(told))
    assert files(tmp_path / "run")["config.yaml"] == before["config.yaml"]
    assert files(tmp_path / "run")["metrics.jsonl"] == before["metrics.jsonl"]
    assert "failed: step 6 of 9" in text
    assert json.loads((tmp_path / "run" / "status.json").read_text())["step"] == FEW_STEPS
    assert json.loads((told / "rank-0.json").read_text())["step"] == FEW_STEPS
    train(more, 1, tmp_path / "log3")
    assert rate_of(tmp_path / "run") == 0.7


def test_notes_of_a_start_are_told_once_and_kept(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    (tmp_path / "run" / "checkpoints" / "step-000000006" / "MANIFEST.json").unlink()
    text = train(flags(tmp_path, "run", *FEW, "--optim.lr", "0.7"), 1, tmp_path / "log2")
    events = (tmp_path / "run" / "events.jsonl").read_text()
    for note in ("step-000000006 is skipped", "optim.lr was 0.05 until now, and is 0.7 from here on"):
        assert text.count(note) == events.count(note) == 1, text


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_divergence_is_told_once_with_the_step_to_go_back_to(world_size: int, tmp_path: Path) -> None:
    calm = ("--optim.kernel_lr", "1", "--optim.kernel_decay", "1")
    train(flags(tmp_path, "run", *FEW, *calm), 1, tmp_path / "log")
    every = ("--checkpoint.every_steps", "1", "--checkpoint.keep", "99", "--train.max_steps", "30")
    wild = (*calm, "--optim.lr", "1e5", "--optim.warmup_epochs", "0")
    text = train(flags(tmp_path, "run", *FEW, *every, *wild), world_size, tmp_path / "log2", code=1)
    assert text.count("Try a lower optim.lr") == 1, text
    message = json.loads((tmp_path / "run" / "status.json").read_text())["message"]
    saved = steps_saved(tmp_path / "run")
    if saved[-1] > FEW_STEPS:
        assert f"go back to step {FEW_STEPS} with --checkpoint.resume={FEW_STEPS}" in message
        assert "The loss was last normal at step 6, before the checkpoint" in message
    else:
        assert "The newest checkpoint, step 6, is from before that" in message
    assert message in text
    back = flags(tmp_path, "run", *FEW, "--checkpoint.resume", FEW_STEPS, "--train.max_steps", "9", *calm)
    train(back, 1, tmp_path / "log3")
    assert metrics(tmp_path / "run")[-1]["loss"] < 10


def test_longer_schedules_tell_the_learning_rate_before_and_after(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", "--data.limit", "128"), 1, tmp_path / "log")  # 2 epochs of 2 steps
    longer = flags(tmp_path, "run", "--data.limit", "128", "--train.epochs", "4")
    text = train(longer, 1, tmp_path / "log2")
    assert "train.epochs was 2 until now, and is 4 from here on" in text
    assert "The learning rate of step 5 would have been 0, and is 0.0375 now" in text
    assert metrics(tmp_path / "run")[4]["lr"] == pytest.approx(0.0375)
    steps = ("--optim.schedule", "milestones", "--optim.milestones", "[0.5]", "--optim.warmup_epochs", "0")
    train(flags(tmp_path, "steps", "--data.limit", "128", *steps), 1, tmp_path / "log3")
    again = flags(tmp_path, "steps", "--data.limit", "128", *steps, "--train.epochs", "6")
    text = train(again, 1, tmp_path / "log4")
    assert "The learning rate of step 5 would have been 0.005, and is 0.05 now" in text


def fewer_digits() -> None:
    """Other images under the same name: the first 96."""
    _change(lambda array: array[:96])


def reordered_digits() -> None:
    """The same images, two of them exchanged."""
    _change(lambda array: np.roll(array, 1, axis=0) if array.ndim == 4 else array)


def _change(change: Any) -> None:
    from dydist.data import builtin

    digits = builtin.digits

    def changed(config: DataConfig, split: Literal["train", "test"], **options: object) -> Arrays:
        found = digits(config, split, **options)
        if split == "test":
            return found
        return found._replace(images=change(found.images), labels=change(found.labels))

    builtin.digits = changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (fewer_digits, "96 training images, not 128"),
        (reordered_digits, "the images or labels are others, or in another order"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(changed: Any, said: str, tmp_path: Path) -> None:
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    before = files(tmp_path / "run")
    more = flags(tmp_path, "run", *FEW, "--train.max_steps", "9")
    text = train(more, 2, tmp_path / "log2", code=2, before=changed)
    assert f"dydist: data.root: these are not the images that this run was started with: {said}" in text
    assert text.count("dydist:") == 1
    assert files(tmp_path / "run") == before


def test_what_an_older_checkpoint_does_not_tell_of_its_data_passes() -> None:
    here = DataDescription.of(open_dataset(DataConfig(name="digits"), "train"))
    assert list(here.differences({})) == []
    older = {name: value for name, value in here.to_dict().items() if name != "content"}
    assert list(here.differences(json.loads(json.dumps(older)))) == []
    changed = {**older, "side": 32, "classes": ["a"], "mean": [0.5, 0.5, 0.5], "train_images": 300}
    assert list(here.differences(changed)) == [
        "1437 training images, not 300",
        "8 pixels a side, not 32",
        "10 classes, not 1",
        "mean [0.3052, 0.3052, 0.3052], not [0.5, 0.5, 0.5]",
    ]


def test_the_evaluation_of_a_restored_run_is_that_of_its_weights_in_training(tmp_path: Path) -> None:
    """A run that was stopped before any evaluation, and has no step left when it is started again."""
    run = Run(flags(tmp_path, "run"), 1, tmp_path / "log", hold=4)
    run.wait_for_step(tmp_path / "run", 4)
    run.signal(signal.SIGTERM)
    assert run.wait() == [75], run.text()
    stopped = steps_saved(tmp_path / "run")[-1]
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    text = train(flags(tmp_path, "run", "--train.max_steps", stopped), 1, tmp_path / "log2")
    assert "going on" not in text
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    train(flags(tmp_path, "whole", "--train.max_steps", stopped), 1, tmp_path / "log3")
    ends = [metrics(tmp_path / name, "evaluation")[-1] for name in ("run", "whole")]
    assert [end["step"] for end in ends] == [stopped, stopped]
    assert ends[0]["loss"] == ends[1]["loss"]
