"""What runs on a node, without a scheduler: processes of earlier starts, launches, ports that are taken."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dydist.jobs.attempt import Attempt, Outcome
from dydist.jobs.files import write_json
from dydist.jobs.launch import NodeLog
from dydist.jobs.node import conclude, rendezvous, task
from dydist.jobs.node.context import NodeContext, NodePlace, StopSignals
from dydist.jobs.node.supervise import run
from dydist.jobs.node.task import kill_leftovers
from dydist.jobs.spec import JobSpec

STAND_IN = """
import os, sys, time
from pathlib import Path
from dydist.process.report import ProcessReport
report = ProcessReport.from_environment()
report.start()
report.heartbeat(3)
print(f"hello from {report.rank}", flush=True)
mode, rank = sys.argv[1:]
if mode == "exit" and report.rank == int(rank):
    report.finish(1, "ValueError: on purpose")
    sys.exit(1)
if mode == "kill" and report.rank == int(rank):
    os.kill(os.getpid(), 9)
if mode in ("exit", "kill"):
    time.sleep(600)
report.finish(0)
"""
"""Honours the contract of dydist/train.py (dydist/process/report.py) and takes no time."""


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeContext]:
    monkeypatch.setattr(StopSignals, "__init__", lambda self: setattr(self, "warning", None))
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    spec = JobSpec(
        run_dir=str(tmp_path), log_dir=str(tmp_path), code=str(Path(__file__).resolve().parents[2]),
        program=str(program), arguments=("done", "0"), workdir=str(tmp_path), processes_per_node=1, cpu=True,
    )  # fmt: skip
    place = NodePlace(job="7", raw_job="7", node=0, nodes=1, names=("here",), scheduler="local")
    attempt = Attempt(tmp_path / "attempt-000")
    with closing(NodeLog(attempt.log(0), 0, io.StringIO())) as log:
        yield NodeContext(
            spec=spec,
            place=place,
            log_dir=tmp_path,
            number=0,
            attempt=attempt,
            signals=StopSignals(),
            log=log,
        )


def changed(context: NodeContext, **values: Any) -> JobSpec:
    return replace(context.spec, **values)


def test_one_process_that_is_done(context: NodeContext) -> None:
    outcome, launch = run(context, context.spec, 0)
    assert (outcome.kind, outcome.step, launch) == ("done", 3, 0)
    assert "[rank 0] hello from 0\n" in context.attempt.log(0).read_text()


@pytest.mark.parametrize(
    ("mode", "kind"), [("exit", "error"), pytest.param("kill", "killed", marks=pytest.mark.long)]
)
def test_the_first_rank_that_fails_takes_all_down(context: NodeContext, mode: str, kind: str) -> None:
    """Well within 30 s; the other would sleep for ten minutes."""
    outcome, _ = run(context, changed(context, processes_per_node=2, arguments=(mode, "1")), 0)
    ended = time.time()
    assert (outcome.kind, outcome.rank) == (kind, 1)
    assert outcome.last_lines[-1] == "hello from 1"
    assert ended - (context.attempt.exit_dir(0) / "pid-1.json").stat().st_mtime < 15
    assert [one.rank for one in context.attempt.failures()] == [1]
    assert not leftover_processes(context.attempt.folder)


@pytest.mark.long
def test_a_taken_port_is_passed_over(context: NodeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the port between our look and the launch: both nodes go on to the next one."""
    names = ("first", "second")
    nodes = [
        replace(context, place=replace(context.place, node=node, nodes=2, names=names)) for node in (0, 1)
    ]
    with socket.socket() as other, ThreadPoolExecutor(2) as pool:
        other.bind(("", 0))
        other.listen()
        taken, free = other.getsockname()[1], rendezvous.free_port(rendezvous.candidate_ports(7, 0))
        ports = iter([taken, free])
        monkeypatch.setattr(rendezvous, "free_port", lambda candidates: next(ports))
        found = list(pool.map(lambda node: run(node, node.spec, 0), nodes))
    assert [(outcome.kind, launch) for outcome, launch in found] == [("done", 1), ("done", 1)]


def test_free_port_skips_those_that_are_listened_on() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        taken = other.getsockname()[1]
        first = next(rendezvous.candidate_ports(12, 0))
        assert rendezvous.free_port(iter([taken, first])) == first


def test_neighbouring_jobs_and_starts_try_other_ports_first() -> None:
    firsts = [next(rendezvous.candidate_ports(job, start)) for job in range(100) for start in range(3)]
    assert len(set(firsts)) == len(firsts)
    assert all(20_000 <= port < 32_000 for port in firsts)


def test_only_earlier_starts_of_this_job_on_this_node_are_killed(tmp_path: Path) -> None:
    def sleeper(folder: Path, node: str, start: int) -> subprocess.Popen[bytes]:
        exit_dir = folder / f"attempt-{start:03d}" / "exit-0"
        env = {
            **os.environ,
            "DYDIST_EXIT_DIR": str(exit_dir),
            "DYDIST_NODE": node,
            "DYDIST_ATTEMPT": str(start),
        }
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=env)

    old = sleeper(tmp_path / "a", "n1", 0)
    others = [
        sleeper(tmp_path / "a", "n1", 1),
        sleeper(tmp_path / "a", "n2", 0),
        sleeper(tmp_path / "b", "n1", 0),
    ]
    try:
        assert kill_leftovers(tmp_path / "a", "n1", 1) == [old.pid]
        assert old.wait(10) == -9
        assert [other.poll() for other in others] == [None, None, None]
    finally:
        for process in (old, *others):
            process.kill()
            process.wait()


def test_the_last_reason_is_of_a_start_that_reported(context: NodeContext) -> None:
    """The batch script and the next start decide for one that could not."""
    for number, reason in enumerate(["rank 0 on node here: killed", "killed at once"]):
        attempt = Attempt(context.log_dir / f"attempt-{number:03d}")
        write_json(attempt.folder / "decision.json", {"action": "requeue", "reason": reason})
        if number == 0:
            attempt.write_outcome(Outcome(node=0, name="here", kind="killed", time=1.0))
    assert task._gave_up(context, 3).endswith("; the last that did report: rank 0 on node here: killed")


@pytest.mark.parametrize("down", [["n1"], []])
def test_a_node_is_written_down_as_lost_where_slurm_says_so(
    context: NodeContext, monkeypatch: pytest.MonkeyPatch, down: list[str]
) -> None:
    asked = []

    def ask(nodes: Sequence[str]) -> list[str]:
        asked.extend(nodes)
        return down

    monkeypatch.setattr(conclude.slurm, "down", ask)
    last = Attempt(context.log_dir / "attempt-000")
    write_json(last.folder / "start.json", {"start": "7.1", "time": 1.0, "nodes": ["n1", "n2"]})
    last.write_outcome(Outcome(node=1, name="n2", kind="killed", time=1.0))
    conclude.remember_lost_nodes(replace(context, number=1, place=replace(context.place, scheduler="slurm")))
    assert asked == ["n1"]
    decision = last.decision()
    reason = "node n1: it has not reported (lost?)"
    assert (decision and decision["reason"]) == (reason if down else None)


def leftover_processes(start: Path) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DYDIST_EXIT_DIR", "").startswith(str(start)):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
