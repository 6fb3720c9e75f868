"""Processes that wait for each other, or for a compiler, heed signals; all go on, or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from dydist.engine.rendezvous import rendezvous
from dydist.errors import StopRequestedError
from dydist.process.launcher import Process
from helpers.support import Run, free_port

ENDS_S = 10
"""Two seconds, on a machine that does much else; without short rounds it is ten minutes."""


def flags(folder: Path) -> list[object]:
    return [
        *("--config", "quickstart", "--run.dir", folder, "--run.name", "run", "--data.limit", 64),
        *("--train.max_steps", 2, "--model.width", 0.0625, "--train.batch_size", 16),
    ]  # fmt: skip


def hold_one_back() -> None:
    """In a training process: rank DYDIST_TEST_LATE waits, the other tells that it is about to rendezvous."""
    import dydist.engine.world as world

    folder, rank = Path(os.environ["DYDIST_TEST_PLACE"]), os.environ["RANK"]
    if rank == os.environ["DYDIST_TEST_LATE"]:
        (folder / "late").touch()
    while rank == os.environ["DYDIST_TEST_LATE"] and not (folder / "go").exists():
        time.sleep(0.01)
    before = world.rendezvous

    def telling(*arguments: object, **more: object) -> object:
        (folder / f"meets-{rank}").touch()
        return before(*arguments, **more)  # type: ignore[arg-type]

    world.rendezvous = telling  # type: ignore[assignment]


def wait_for(path: Path, run: Run, lines: int = 0) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, run.text()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("late", [0, 1])
def test_a_signal_ends_the_wait_for_a_late_process(late: int, number: int, tmp_path: Path) -> None:
    told = {"DYDIST_TEST_LATE": str(late), "DYDIST_TEST_PLACE": str(tmp_path)}
    run = Run(flags(tmp_path), 2, tmp_path / "log", hold_one_back, **told)
    wait_for(tmp_path / f"meets-{1 - late}", run)
    wait_for(tmp_path / "late", run)
    waiting = run.processes[1 - late]
    os.kill(waiting.pid or 0, number)
    waiting.join(ENDS_S)
    assert waiting.exitcode == 75, run.text()
    os.kill(run.processes[late].pid or 0, number)
    (tmp_path / "go").touch()
    assert run.wait(60) == [75, 75], run.text()
    assert "before a step was begun" in run.text()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_signal_ends_a_compilation_and_the_wait_for_it(tmp_path: Path) -> None:
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(
        f'#!/bin/sh\necho "$1" >> {calls}\n[ "$1" = --version ] && exec g++ --version\nexec sleep 600\n'
    )
    compiler.chmod(0o755)
    run = Run(flags(tmp_path), 2, tmp_path / "log", CXX=str(compiler), DYDIST_CACHE=str(tmp_path / "cache"))
    wait_for(calls, run, 3)  # each asked for the version, and one compiles
    began = time.monotonic()
    run.signal(signal.SIGTERM)
    assert run.wait(60) == [75, 75], run.text()
    assert time.monotonic() - began < ENDS_S
    assert len(calls.read_text().splitlines()) == 3  # whoever waited did not go on to compile
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.parametrize("seed", range(12))
def test_all_go_on_or_none_whenever_the_signal_comes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal reaches each process at a moment of its own; some of them are not there yet."""
    draw, size = random.Random(seed), 3
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    ends: dict[int, str] = {}
    stores = []

    def one(rank: int, delay: float, signalled: float) -> None:
        time.sleep(delay)
        try:
            stores.append(
                rendezvous(
                    Process(rank=rank, world_size=size),
                    timeout_s=30,
                    stop_requested=lambda: time.monotonic() > signalled,
                )
            )
            ends[rank] = "go"
        except StopRequestedError:
            ends[rank] = "stop"

    threads = []
    for rank in range(size):
        signalled = time.monotonic() + draw.uniform(0, 0.3)
        threads.append(threading.Thread(target=one, args=(rank, draw.uniform(0, 0.15), signalled)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(ends) == size
    assert len(set(ends.values())) == 1, ends


def test_who_waits_in_vain_says_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    for rank, what in ((1, "nobody answered"), (0, "1 of 2 processes came")):
        with pytest.raises(TimeoutError, match=f"^rendezvous: {what} at 127"):
            rendezvous(Process(rank=rank, world_size=2), timeout_s=0.1, stop_requested=lambda: False)
