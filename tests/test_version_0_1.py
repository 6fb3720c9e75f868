"""What version 0.1.0 wrote is read, resumed, and compared by this version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dydist.checkpoint import inspect, load, open_storage, survey, verify
from dydist.cli.main import main
from dydist.config.reader import read_config
from helpers.support import metrics, train

RUN = Path(__file__).parent / "version_0_1" / "run"
"""A whole run folder, written by version 0.1.0 in /home/user/project and never written again:

    dydist submit --cluster local --cpu -- quickstart --model.width 0.03125 --train.epochs 2 --train.max_steps 6 \\
        --data.limit 128 --train.batch_size 32 --checkpoint.every_steps 3 --run.dir runs --run.name submitted

Left out: the submitted code, submitit's pickles, and all checkpoints but the last.
"""
STEPS = 6


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run folder, as if its project had always been in `tmp_path`."""
    folder = tmp_path / "runs" / "submitted"
    shutil.copytree(RUN, folder)
    for file in folder.rglob("*.json*"):
        file.write_text(file.read_text().replace("/home/user/project", str(tmp_path)))
    return folder


def test_its_checkpoint_is_valid_and_loads(run: Path) -> None:
    storage = open_storage(str(run / "checkpoints"))
    (found,) = survey(storage)
    verify(storage, found)
    assert load(storage, inspect(storage, found.folder)).step == STEPS


def test_a_run_goes_on_from_its_last_step(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    before = (run / "metrics.jsonl").read_text()
    flags = ["--config", run / "config.yaml", "--train.max_steps", STEPS + 2, "--monitor.every_steps", 1]
    train(flags, 1, run.parent / "log")
    assert (run / "metrics.jsonl").read_text().startswith(before)
    assert [line["step"] for line in metrics(run)][-2:] == [STEPS + 1, STEPS + 2]
    assert read_config(["--config", str(run / "config.yaml")]).train.max_steps == STEPS + 2


def test_a_field_that_it_did_not_have_is_compared_with_its_default(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    flags = ["--config", run / "config.yaml", "--train.max_steps", STEPS + 1, "--optim.kernel_lr", "auto"]
    text = train(flags, 1, run.parent / "log")
    assert "optim.kernel_lr was 1.0 until now, and is auto from here on" in text
    assert "optim.attention_lr" not in text


def test_a_finished_run_is_left_as_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    kept = {
        file: file.read_bytes() for file in run.rglob("*") if file.name in ("metrics.jsonl", "config.yaml")
    }
    text = train(["--config", run / "config.yaml"], 1, run.parent / "log")
    assert "already done" in text
    assert {file: file.read_bytes() for file in kept} == kept


@pytest.mark.parametrize(
    "command",
    [
        ["checkpoint", "list", "{run}/checkpoints"],
        ["checkpoint", "verify", "{run}/checkpoints"],
        ["compare", "{run}", "{run}"],
        ["evaluate", "{run}"],
        pytest.param(
            ["export", "{run}", "--to", "safetensors", "--output", "{run}/exported"], marks=pytest.mark.long
        ),
        ["logs", "{run}"],
        ["report", "{run}"],
        ["status", "{run}"],
    ],
    ids=" ".join,
)
def test_the_commands_read_it(run: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(run=run) for word in command]) == 0, capsys.readouterr().err


def test_status_still_says_what_became_of_its_job(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(run), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["state"] == "done"
    assert row["run"]["step"] == STEPS
