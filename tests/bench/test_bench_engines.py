"""`python docs/benchmarks`: mistakes, what an engine's process holds, and that it measures for real."""

from __future__ import annotations

import subprocess
import sys

import pytest
from engines import ENGINES, held_bytes, measure

from dydist.process.local import run_processes
from helpers.support import REPOSITORY


def test_held_bytes_follow_the_zero_papers_table() -> None:
    million = 1_000_000
    assert [held_bytes(million, engine, 4) / million for engine in ENGINES] == [12, 12, 10, 7, 4]
    assert held_bytes(million, "zero3", 1) == 16 * million  # alone, ZeRO's copy of the weights is a loss


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["engines", "--engines", "zero9"], "--engines: zero9 is no engine; use some of ddp"),
        (["exact", "--stem", "x"], "--stem: 'x' is not allowed"),
        (["scalling"], "'scalling' is no benchmark; use one of engines, exact"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str) -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "benchmarks"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_process_that_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dydist.process.local.GRACE_S", 0.1)
    code = "import os, time\nif os.environ['RANK'] == '1': raise SystemExit('no')\ntime.sleep(900)"
    with pytest.raises(RuntimeError, match="process 1 ended with 1"):
        run_processes(["-m", "timeit", "-n", "1", "-r", "1", code], 2)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("sys.exit(1)", "process 0 ended with 2:\ndydist: why\n"),
        ("os.kill(os.getpid(), 9)", "process 1 ended with -9:\n"),
    ],
)
def test_the_error_of_all_is_told_unless_a_signal_ended_the_first(end: str, told: str) -> None:
    first = "time.sleep(0.5); print('dydist: why', file=sys.stderr); sys.exit(2)"
    code = f"import os, sys, time\nif os.environ['RANK'] == '1': {end}\n{first}"
    with pytest.raises(RuntimeError) as error:
        run_processes(["-c", code], 2)
    assert str(error.value) == told


def test_a_process_that_hangs_is_ended() -> None:
    code = "import threading\nthreading.Event().wait()"
    with pytest.raises(RuntimeError, match=r"process 0 had not ended after 0\.5 s"):
        run_processes(["-m", "timeit", "-n", "1", "-r", "1", code], 1, timeout_s=0.5)


@pytest.mark.long
def test_it_measures() -> None:
    cost = measure("zero2", 2, steps=2, batch_size=16, shards=8, width=0.0625, stem="strided")
    assert len(cost.step_s) == 2
    assert cost.steps_per_s > 0
    assert cost.peak_bytes > cost.held_bytes > 0
