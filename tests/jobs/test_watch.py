"""Watching processes through their files, with real processes and a clock of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dydist.jobs.node.watch import Watch, alive
from dydist.process.report import ProcessReport


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(tmp_path: Path, clock: Clock) -> Watch:
    return Watch(tmp_path, [0, 1], now=clock, start_timeout_s=50, hang_timeout_s=10)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """Says when it is ready, then what signals it got."""
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b'asked\\n'))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


def report_pid(folder: Path, rank: int, pid: int) -> None:
    (folder / f"pid-{rank}.json").write_text(json.dumps({"rank": rank, "pid": pid, "host": "h"}))


def test_all_well(tmp_path: Path, watch: Watch) -> None:
    for rank in (0, 1):
        report = ProcessReport(tmp_path, rank)
        report.start()
        report.heartbeat(7)
        report.finish(75)
    watch.look()
    assert watch.finished
    assert watch.fault() is None
    assert [rank.step for rank in watch.ranks] == [7, 7]


def test_nothing_started_is_not_finished(watch: Watch) -> None:
    watch.look()
    assert not watch.started
    assert not watch.finished
    assert watch.fault() is None


@pytest.mark.parametrize(("code", "kind"), [(1, "error"), (2, "usage")])
def test_a_failed_rank(tmp_path: Path, watch: Watch, code: int, kind: str) -> None:
    ProcessReport(tmp_path, 1).finish(code, "Traceback\nValueError: x")
    watch.look()
    fault = watch.fault()
    assert fault is not None
    assert (fault.kind, fault.rank, fault.message) == (kind, 1, "ValueError: x")


def test_a_rank_that_vanished_comes_before_its_peers_error(
    tmp_path: Path, watch: Watch, clock: Clock, process: subprocess.Popen[str]
) -> None:
    report_pid(tmp_path, 1, process.pid)
    watch.look()
    assert watch.fault() is None
    process.kill()
    process.wait()
    ProcessReport(tmp_path, 0).finish(1, "Connection closed by peer")
    watch.look()
    first = watch.fault()
    assert first is not None
    assert first.kind == "error"  # its own last word may still come
    clock.now += 1.5
    fault = watch.fault()
    assert fault is not None
    assert (fault.kind, fault.rank) == ("killed", 1)


def test_a_rank_that_hangs(tmp_path: Path, watch: Watch, clock: Clock) -> None:
    report_pid(tmp_path, 0, os.getpid())
    (tmp_path / "heartbeat-0").touch()
    watch.look()
    clock.now += 9
    assert watch.fault() is None
    os.utime(tmp_path / "heartbeat-0", (1, 1))  # any change counts: the file server's clock is another
    watch.look()
    clock.now += 9
    assert watch.fault() is None
    clock.now += 2
    fault = watch.fault()
    assert fault is not None
    assert (fault.kind, fault.rank) == ("hung", 0)
    assert fault.message.startswith("hung: no step was finished for 11 s")


def test_of_hung_ranks_the_stopped_one_is_named(
    tmp_path: Path, watch: Watch, clock: Clock, process: subprocess.Popen[str]
) -> None:
    report_pid(tmp_path, 0, os.getpid())
    report_pid(tmp_path, 1, process.pid)
    for rank in (0, 1):
        (tmp_path / f"heartbeat-{rank}").touch()
    watch.look()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    clock.now += 4
    assert watch.frozen() is None
    clock.now += 2
    early = watch.frozen()  # asked where another node's time is up
    assert early is not None
    assert early.rank == 1
    clock.now += 5
    fault = watch.fault()
    process.send_signal(signal.SIGCONT)
    assert fault is not None
    assert (fault.kind, fault.rank) == ("frozen", 1)
    assert "process state: stopped" in fault.message


def test_a_rank_that_never_starts(watch: Watch, clock: Clock) -> None:
    clock.now += 51
    fault = watch.fault()
    assert fault is not None
    assert fault.message == "hung: the first step was not finished for 51 s (process state: not started)"


def test_a_stop_is_asked_for_once_and_again_later(
    tmp_path: Path, watch: Watch, clock: Clock, process: subprocess.Popen[str]
) -> None:
    assert process.stdout is not None
    report_pid(tmp_path, 0, process.pid)
    watch.look()
    watch.ask_to_stop()
    watch.ask_to_stop()
    assert process.stdout.readline() == "asked\n"
    clock.now += 6
    watch.ask_to_stop()
    assert process.stdout.readline() == "asked\n"
    watch.kill()
    assert process.stdout.read() == ""
    assert process.wait(60) == -signal.SIGKILL
    assert not alive(process.pid)
