"""A run as its user meets it: stopped, killed, started again, finished, refused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dydist.compare.two import compare_runs
from helpers.digit_runs import PER_EPOCH, flags, steps_saved
from helpers.support import REPOSITORY, Run, metrics, train

STEPS = 2 * PER_EPOCH


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(flags(folder, "whole"), 1, folder / "log")
    return folder / "whole"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR2, marks=pytest.mark.long),
    ],
)
def test_a_signal_in_mid_epoch_saves_and_the_same_command_ends_with_the_same_bits(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    run = Run(flags(tmp_path, "cut"), 1, tmp_path / "log-cut", hold=STEPS - 3)
    run.wait_for_step(tmp_path / "cut", PER_EPOCH + 2)
    run.signal(number)
    assert run.wait() == [75], run.text()
    stopped = steps_saved(tmp_path / "cut")[-1]
    assert PER_EPOCH + 2 <= stopped < STEPS
    assert stopped % PER_EPOCH
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["state"] == "stopped"
    train(flags(tmp_path, "cut"), 1, tmp_path / "log-again")
    result = compare_runs(whole, tmp_path / "cut")
    assert result.equal, result
    assert result.steps_compared == STEPS
    assert [line["step"] for line in metrics(tmp_path / "cut")] == list(range(1, STEPS + 1))
    evaluations = [
        [(line["step"], line["loss"], line["accuracy"]) for line in metrics(run_dir, "evaluation")]
        for run_dir in (whole, tmp_path / "cut")
    ]
    assert evaluations[0] == evaluations[1]


def test_signals_while_a_finished_run_ends_do_not_kill_it(tmp_path: Path) -> None:
    """From its last word until the process is gone: a scheduler's warning must not turn done into killed."""
    for attempt in range(5):  # a busy machine may look away for as long as that takes
        told = tmp_path / f"exit{attempt}"
        command = [sys.executable, REPOSITORY / "dydist/train.py", *flags(tmp_path, f"run{attempt}")]
        process = subprocess.Popen(
            [*map(str, command), "--train.max_steps", "2"], env={**os.environ, "DYDIST_EXIT_DIR": str(told)}
        )
        while not (told / "rank-0.json").exists() and process.poll() is None:
            time.sleep(0.001)
        sent = 0
        while process.poll() is None:
            process.send_signal(signal.SIGUSR1 if sent % 2 else signal.SIGTERM)
            sent += 1
            time.sleep(0.001)
        assert process.returncode == 0
        if sent > 10:
            return
    raise AssertionError("no run was met at its end")


def test_a_finished_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    text = train(flags(tmp_path, "run"), 1, tmp_path / "log")
    assert f"done: step {STEPS} of {STEPS}" in text
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    text = train(flags(tmp_path, "run"), 1, tmp_path / "log-again")
    assert f"already done: step {STEPS} of {STEPS}" in text
    assert "best" in text
    assert metrics(tmp_path / "run") == [
        json.loads(x) for x in before.splitlines() if json.loads(x)["kind"] == "step"
    ]
    assert steps_saved(tmp_path / "run")[-1] == STEPS


def test_what_defines_a_run_must_not_change_and_what_does_not_is_noted(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", "--train.max_steps", "5"), 1, tmp_path / "log")
    other = flags(tmp_path, "run", "--seed", "3", "--parallel.shards", "8", "--model.spread", "0.1")
    text = train(other, 1, tmp_path / "log-other", code=2)
    assert "seed: 3 is not what this run was started with (0); use that value, or another run.name" in text
    assert "parallel.shards: 8 is not what" in text
    assert "model.spread: 0.1 is not what this run was started with (None)" in text
    text = train(
        flags(tmp_path, "run", "--train.max_steps", "8", "--optim.lr", "0.01"), 1, tmp_path / "log-lr"
    )
    assert "optim.lr was 0.05 until now, and is 0.01 from here on" in text
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 9))


def test_what_could_change_the_bits_is_said_at_resume(tmp_path: Path) -> None:
    exact = flags(tmp_path, "run", "--parallel.reduce", "exact")
    train([*exact, "--train.max_steps", "3"], 1, tmp_path / "log")
    text = train([*exact, "--train.max_steps", "5", "--parallel.threads", "2"], 1, tmp_path / "log2")
    assert "threads was 1 and is 2 here: the bits may differ from here on" in text


def test_other_kernels_are_said_at_resume_and_refused_among_processes(tmp_path: Path) -> None:
    exact = flags(tmp_path, "run", "--parallel.reduce", "exact")
    train([*exact, "--train.max_steps", "3"], 1, tmp_path / "log")
    text = train([*exact, "--train.max_steps", "5"], 1, tmp_path / "log2", DYDIST_NATIVE="0")
    assert "and is torch here: the bits may differ from here on" in text
    assert "dynamic convolutions are made for C++ kernels, which are not there (DYDIST_NATIVE=0)" in text
    mixed = flags(tmp_path, "mixed", "--parallel.reduce", "exact")
    text = train(mixed, 2, tmp_path / "log3", code=2, before=without_a_compiler_on_rank_1)
    assert "exact needs the same kernels everywhere, but rank 0 computes with C++" in text


def without_a_compiler_on_rank_1() -> None:
    if os.environ["RANK"] == "1":
        os.environ["DYDIST_NATIVE"] = "0"


def test_a_loss_that_is_not_finite_stops_and_leaves_the_checkpoints_before_it(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", "--train.max_steps", "2"), 1, tmp_path / "log")
    wild = flags(
        tmp_path, "run", "--optim.lr", "1e30", "--optim.warmup_epochs", "0", "--checkpoint.every_steps", "1"
    )
    text = train(wild, 1, tmp_path / "log-wild", code=1)
    assert "the loss is" in text
    assert "Try a lower optim.lr" in text
    saved = steps_saved(tmp_path / "run")
    assert saved[-1] in (2, 3)  # the first wild step may leave finite weights behind
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_three_processes_evaluate_and_log_as_one_does(tmp_path: Path) -> None:
    for world_size in (1, 3):
        arguments = flags(
            tmp_path,
            f"run{world_size}",
            "--parallel.reduce",
            "exact",
            "--train.eval_batch_size",
            "50",
            "--data.limit",
            "256",
        )
        rates = tmp_path / f"rates{world_size}"
        train(arguments, world_size, tmp_path / f"log{world_size}", before=note_rates, RATES=str(rates))
    one, *others = (
        [
            (line["step"], line["loss"], line["accuracy"], line["images"])
            for line in metrics(tmp_path / run, "evaluation")
        ]
        for run in ("run1", "run3")
    )
    assert {images for *_, images in one} == {256}
    assert all(one == other for other in others)
    used = [Path(f"{tmp_path}/rates{n}.{rank}").read_text() for n in (1, 3) for rank in range(n)]
    assert len(used) == 4
    assert set(used) == {used[0]}
    logged = [[line["lr"], line["temperature"]] for line in metrics(tmp_path / "run3")]
    assert [json.loads(line) for line in used[0].splitlines()] == logged


def note_rates() -> None:
    """Write down the learning rate and temperature that this process uses, a line a step."""
    from dydist.engine.core import TorchEngine

    def train_step(self: TorchEngine, batch: Any, *, lr: float, temperature: float, votes: Any) -> Any:
        with open(f"{os.environ['RATES']}.{self.world.rank}", "a") as file:
            file.write(f"{json.dumps([lr, temperature])}\n")
        return original(self, batch, lr=lr, temperature=temperature, votes=votes)

    original = TorchEngine.train_step
    TorchEngine.train_step = train_step  # type: ignore[method-assign]


def test_saves_come_by_steps_minutes_and_epochs(tmp_path: Path) -> None:
    train(flags(tmp_path, "epochs", "--checkpoint.keep", "9"), 1, tmp_path / "log-e")
    assert steps_saved(tmp_path / "epochs") == [PER_EPOCH, STEPS]
    by_steps = ("--checkpoint.every_steps", "3", "--checkpoint.keep", "99", "--train.max_steps", "8")
    train(flags(tmp_path, "steps", *by_steps), 1, tmp_path / "log-s")
    assert set(steps_saved(tmp_path / "steps")) <= {3, 6, 8}  # a newer save may replace one that waits
    assert steps_saved(tmp_path / "steps")[-1] == 8
    often = ("--checkpoint.every_minutes", "0.0001", "--checkpoint.keep", "99", "--train.max_steps", "12")
    train(flags(tmp_path, "minutes", *often), 2, tmp_path / "log-m")
    assert len(steps_saved(tmp_path / "minutes")) > 2


def test_a_last_save_keeps_to_the_time_that_the_scheduler_leaves(tmp_path: Path) -> None:
    arguments = flags(tmp_path, "run", "--train.max_steps", "4", "--checkpoint.every_steps", "3")
    until = time.time() + 400
    train(arguments, 2, tmp_path / "log", before=note_deadlines, DYDIST_UNTIL=str(until), NOTES=str(tmp_path))
    (background, last), *others = (
        [float(line) for line in (tmp_path / f"deadlines.{rank}").read_text().split()] for rank in range(2)
    )
    assert background == 600
    assert 0 < last < 400
    assert others == [[background, last]]


def note_deadlines() -> None:
    """Write down how long each save may take, a line a save."""
    from dydist.checkpoint import Checkpointer

    def save(self: Checkpointer, step: int, *arguments: Any, deadline_s: float, **more: Any) -> None:
        with open(f"{os.environ['NOTES']}/deadlines.{os.environ['RANK']}", "a") as file:
            file.write(f"{deadline_s}\n")
        original(self, step, *arguments, deadline_s=deadline_s, **more)

    original = Checkpointer.save
    Checkpointer.save = save  # type: ignore[method-assign]


def test_the_averaged_weights_are_evaluated_beside_the_weights(tmp_path: Path) -> None:
    train(
        flags(tmp_path, "run", "--train.ema_decay", "0.9", "--train.precision", "fp16"), 1, tmp_path / "log"
    )
    lines = metrics(tmp_path / "run", "evaluation")
    assert [line["ema"] for line in lines] == [False, True] * 2
    for weights, averaged in (lines[:2], lines[2:]):
        assert averaged["loss"] != weights["loss"]
    assert lines[3]["loss"] != lines[1]["loss"]  # they follow; accuracies after so few steps are noise


def test_a_launcher_that_asks_is_told_pids_heartbeats_and_true_exit_codes(tmp_path: Path) -> None:
    folder = tmp_path / "exit"
    train(flags(tmp_path, "run", "--train.max_steps", "4"), 2, tmp_path / "log", DYDIST_EXIT_DIR=str(folder))
    for rank in range(2):
        end = json.loads((folder / f"rank-{rank}.json").read_text())
        assert (end["rank"], end["code"], end["step"]) == (rank, 0, 4)
        assert json.loads((folder / f"pid-{rank}.json").read_text())["pid"] > 0
        assert (folder / f"heartbeat-{rank}").exists()
    train(flags(tmp_path, "run", "--seed", "9"), 1, tmp_path / "log2", code=2, DYDIST_EXIT_DIR=str(folder))
    end = json.loads((folder / "rank-0.json").read_text())
    assert end["code"] == 2
    assert "seed: 9 is not what" in end["error"]


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    run = Run(
        flags(tmp_path, "run", "--train.epochs", "500"), 1, tmp_path / "log", before=stop_is_never_agreed
    )
    run.wait_for_step(tmp_path / "run", 3)
    run.signal(signal.SIGINT)
    run.wait_for_step(tmp_path / "run", metrics(tmp_path / "run")[-1]["step"] + 3)
    run.signal(signal.SIGINT)
    assert run.wait(30) == [130]


def stop_is_never_agreed() -> None:
    """Something in the way of an orderly stop."""
    from dydist.engine.loop import Loop

    settle = Loop._settle

    def deaf(self: Loop, *arguments: object) -> object:
        from dataclasses import replace

        return replace(settle(self, *arguments), stop=False)  # type: ignore[arg-type, type-var]

    Loop._settle = deaf  # type: ignore[method-assign, assignment]


def test_config_yaml_takes_the_run_up_again(tmp_path: Path) -> None:
    train(flags(tmp_path, "run", "--train.max_steps", "4"), 1, tmp_path / "log")
    again = ["--config", tmp_path / "run" / "config.yaml", "--train.max_steps", "6"]
    train(again, 1, tmp_path / "log2")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = train(flags(tmp_path / "file", "run"), 2, tmp_path / "log", code=2)
    assert f"run.dir: cannot write {tmp_path / 'file' / 'run'}" in text


def launch(config: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` as in the README."""
    command = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--quiet",
        "--config_file",
        f"launch/{config}.yaml",
    ]
    return subprocess.run(
        [*command, "dydist/train.py", *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "configs", [("cpu_2",), pytest.param(("cpu_1",), marks=pytest.mark.long)], ids=["two", "one"]
)
def test_accelerate_launch_starts_one_process_and_two(configs: tuple[str, ...], tmp_path: Path) -> None:
    few = ("--parallel.reduce", "exact", "--train.max_steps", "4")
    for config in configs:
        done = launch(config, *flags(tmp_path, config, *few))
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
    train(flags(tmp_path, "alone", *few), 1, tmp_path / "log")
    assert all(compare_runs(tmp_path / "alone", tmp_path / config).equal for config in configs)


@pytest.mark.long  # minutes of C++ compiling; tests/engine/test_compiled_step.py holds the step itself
def test_a_compiled_network_trains(tmp_path: Path) -> None:
    text = train(flags(tmp_path, "run", "--train.compile", "true"), 1, tmp_path / "log")
    assert f"done: step {STEPS}" in text
    assert metrics(tmp_path / "run")[-1]["loss"] < metrics(tmp_path / "run")[0]["loss"]


def test_three_epochs_learn_the_digits(tmp_path: Path) -> None:
    """A sixteenth of the width, so less than the quick start's accuracy: 0.64 here, and 0.1 is chance."""
    words = ("--train.epochs", "3", "--temperature.epochs", "1", "--model.width", "0.0625")
    train(["--config", "quickstart", "--run.dir", tmp_path, "--run.name", "run", *words], 1, tmp_path / "log")
    assert metrics(tmp_path / "run", "evaluation")[-1]["accuracy"] > 0.4


@pytest.mark.long
def test_the_quick_start_ends_over_95_percent(tmp_path: Path) -> None:
    if not (REPOSITORY / ".venv").exists():
        pytest.skip("there is no .venv here, and this test does not make one")
    done = subprocess.run(
        ["bash", "launch/quickstart.sh", "--run.dir", tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "quickstart", "evaluation")[-1]["accuracy"] > 0.95
    assert "tensorboard --logdir" in done.stdout
