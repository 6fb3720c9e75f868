"""The command `dydist check`: its words, its exit codes, and real interpreters."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dydist.check import CheckOptions, EngineName, Row, Verdict
from dydist.check.runs import Part, Plan, plans, short, start_processes, start_run
from dydist.cli.main import run_command
from dydist.config.reader import read_config
from dydist.errors import FailedError
from dydist.process.local import ProcessError, run_processes
from helpers.support import REPOSITORY

SUSPECT = "--data.name synthetic --model.factory helpers.networks:suspect --model.options".split()


def test_a_network_that_draws_is_named_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", "--", *SUSPECT, "{kind: Noise}"]) == 1
    said = capsys.readouterr().out
    assert said.startswith(
        "engine exact, fp32\n  module 0.body.middle (Noise) draws by torch's randn_like, which"
    )
    assert said.endswith("NOT KEPT: nothing was run; parallel.reduce=exact refuses such a network\n")


def test_what_is_run_and_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[str], CheckOptions, EngineName]] = []

    def fake(arguments: Sequence[str], options: CheckOptions, engine: EngineName, **_: object) -> Verdict:
        asked.append((list(arguments), options, engine))
        return Verdict(engine, "fp32", (Row("1 process", True, "reference"),))

    monkeypatch.setattr("dydist.check.check", fake)
    words = (
        "check --engine exact ddp --precision fp32 bf16 --steps 4 --json -- quickstart --parallel.shards 2"
    )
    assert run_command(words.split()) == 0
    assert [(one[2], one[0][-1]) for one in asked] == [
        (engine, precision) for engine in ("exact", "ddp") for precision in ("fp32", "bf16")
    ]
    assert asked[0][1] == CheckOptions(processes=(1, 2), steps=4)  # three processes cannot share two shards
    assert [one["kept"] for one in json.loads(capsys.readouterr().out)] == [True] * 4
    for flags, engine in (
        ([], "exact"),
        (["--parallel.reduce", "fast"], "ddp"),
        (["--parallel.reduce", "exact"], "exact"),
        (["--parallel.engine", "deepspeed"], "deepspeed"),
    ):
        run_command(["check", "--", *flags])
        assert asked[-1][2] == engine
    said = capsys.readouterr().out
    assert "parallel.reduce=fast and DeepSpeed do not promise equal bits" in said
    assert run_command(["check", "--steps", "1"]) == 2
    assert "check: --steps 1 --images 4 are too few" in capsys.readouterr().err


def test_a_process_of_a_check_ends_with_the_runs_code_and_knows_no_other_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")
    with pytest.raises(ProcessError, match="there is no such field") as error:
        start_processes(["-", "0", "--optim.lrr", "1"], 1, 0)
    assert error.value.code == 2
    with pytest.raises(ProcessError, match="process 0 ended with 3"):
        run_processes(["-c", "raise SystemExit(3)"], 1)
    assert run_processes(["-c", "print(5); raise SystemExit(3)"], 1, expected=3) == "5\n"


def test_the_runs() -> None:
    assert [str(plan) for plan in plans(CheckOptions())] == [
        *("1 process", "2 processes", "3 processes"),
        "2 processes, stopped after step 3, resumed on 1",
    ]


def test_why_a_process_failed(tmp_path: Path) -> None:
    def why(code: int | None, said: str) -> str | None:
        def starter(arguments: Sequence[str], processes: int, expected: int) -> None:
            raise ProcessError("process 0 had not ended", code, said)

        return start_run((), Plan((Part(1),)), tmp_path / "run", recorded=True, starter=starter).failure

    assert why(1, "a\ndydist: step 3: the loss is nan\n") == "step 3: the loss is nan"
    assert (why(1, ""), why(None, "")) == ("ended with 1", "process 0 had not ended")
    assert why(-9, "UserWarning: slow") == "ended with -9 (SIGKILL): UserWarning: slow"
    assert why(0, "") == "ended with 0"


@pytest.mark.parametrize(("images", "last"), [(2, 8), (3, 8), (4, 8), (6, 12)])
def test_the_last_batch_of_an_epoch_has_two_images_a_shard(images: int, last: int) -> None:
    flags = short(
        read_config(["--parallel.shards", "4", "--data.drop_last", "false"]),
        "exact",
        CheckOptions(images=images),
    )
    limit = int(flags[flags.index("--data.limit") + 1])
    assert (limit - 1) % (4 * images) + 1 == last


def test_what_was_found_before_a_failure_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(arguments: Sequence[str], options: CheckOptions, engine: EngineName, **_: object) -> Verdict:
        if engine == "ddp":
            raise FailedError("why")
        return Verdict(engine, "fp32", (Row("1 process", True, "reference"),))

    monkeypatch.setattr("dydist.check.check", fake)
    assert run_command("check --engine exact ddp --json".split()) == 1
    said = capsys.readouterr()
    assert [one["engine"] for one in json.loads(said.out)] == ["exact"]
    assert said.err == "dydist: why\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_processes_and_removes_the_folder(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []

    def fake(*_: object, **__: object) -> Verdict:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            code = f"import os, signal, time; os.kill({os.getpid()}, {number.value}); time.sleep(5)"
            seen.append(len(list(tmp_path.iterdir())))
            run_processes(["-c", code], 1)
        raise AssertionError

    monkeypatch.setattr("dydist.check.check", fake)
    before = signal.signal(number, ignored := lambda *_: None)
    try:
        with pytest.raises(SystemExit) as error:
            run_command(["check"])
        assert signal.getsignal(number) is ignored
    finally:
        signal.signal(number, before)
    assert error.value.code == 128 + number
    assert (seen, list(tmp_path.iterdir())) == ([1], [])


@pytest.mark.long
def test_new_interpreters_on_one_two_and_three_processes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert run_command("check -- quickstart --model.width 0.0625".split()) == 0
    said = capfd.readouterr()
    assert said.out.count("equal to the bit") == 3
    assert said.out.endswith("kept: the same bits in every run\n")
    assert "3 processes …\n3 processes: " in said.err
