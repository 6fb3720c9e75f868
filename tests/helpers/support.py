"""What tests of several folders share: where the repository is, what to do when a service is missing, processes."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def missing(what: str) -> None:
    """Skip loudly at home; fail in CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def unpack(name: str, target: Path) -> Path:
    """Write real CIFAR images in the published layout with the data folder's own script."""
    data = Path(os.environ.get("DYDIST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / "unpack.py").is_file():
        missing(f"{data / 'unpack.py'} (set DYDIST_TEST_DATA to the folder that holds it)")
    subprocess.run([sys.executable, str(data / "unpack.py"), name, str(target)], check=True)
    return target


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that nobody else is given while this lives.

    The system gives no bound port to another socket. Both ends with SO_REUSEADDR, which every server sets: who was
    told the port may listen on it all the same.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _RESERVED.append(probe)
    return int(probe.getsockname()[1])


def _rank(
    rank: int,
    world_size: int,
    port: int,
    arguments: list[str],
    log: str,
    environment: dict[str, str],
    before: Callable[[], None] | None,
    hold: tuple[int, Path] | None,
) -> None:
    """One training process, with the environment that torchrun gives it."""
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    tempfile.tempdir = None  # the server has looked it up
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    from dydist.process.stop import StopRequest
    from dydist.train import run_process

    stop = StopRequest().listen()
    if hold is not None:
        _hold(*hold)
    if before is not None:
        before()
    try:
        code = run_process(arguments, stop)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # DeepSpeed's threads can abort an interpreter that winds down


def _hold(step: int, signalled: Path) -> None:
    """In a training process: after `step`, wait for the file."""
    from dydist.process.report import ProcessReport

    heartbeat = ProcessReport.heartbeat

    def holding(self: ProcessReport, at: int) -> None:
        heartbeat(self, at)
        while at >= step and not signalled.exists():
            time.sleep(0.01)

    ProcessReport.heartbeat = holding  # type: ignore[method-assign]


PRELOAD = [
    *("dydist.run.session", "dydist.engine.ddp", "dydist.engine.exact"),
    *("dydist.monitor.build", "dydist.monitor.outputs.tensorboard", "dydist.monitor.probes.probe"),
    "torch._inductor",  # torch.use_deterministic_algorithms imports it
]
"""What the server that runs are forked from has imported: seconds that no run has to spend again."""


@contextmanager
def preloaded(*modules: str) -> Iterator[None]:
    """Within, the server that runs are forked from has imported these too. It is a server of its own."""
    PRELOAD.extend(modules)
    _stop_server()
    yield
    del PRELOAD[-len(modules) :]
    _stop_server()


def _stop_server() -> None:
    """End the server and what it has forked. By itself it would wait for these, and one may be held for ever."""
    for process in multiprocessing.active_children():
        if isinstance(process, ForkServerProcess):
            process.kill()
            process.join()
    server = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)
        server._stop()


class Run:
    """`world_size` processes of one run, forked from a server that has torch loaded: up in a moment.

    `before` is called in each process before training starts, to break something on purpose. After step `hold` the
    run waits until it was sent a signal: it must not be over before a busy machine comes to that.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        world_size: int,
        log: Path,
        before: Callable[[], None] | None = None,
        hold: int | None = None,
        **environment: str,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._signalled = Path(f"{log}.signalled")
        self._signalled.unlink(missing_ok=True)
        holding = None if hold is None else (hold, self._signalled)
        port = free_port()
        texts = [str(argument) for argument in arguments]
        self.processes = [
            context.Process(
                target=_rank,
                args=(rank, world_size, port, texts, f"{log}.{rank}", environment, before, holding),
            )
            for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, timeout: float = 600) -> list[int | None]:
        """Exit codes by rank; processes that are still there after `timeout` seconds are killed (code None)."""
        for process in self.processes:
            process.join(timeout)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes

    def wait_for_step(self, run_dir: Path, step: int, timeout: float = 300) -> None:
        """Wait until these processes train and `step` or a later one is logged, by them or by those before them.

        AssertionError: time is up, or the run is over. Its processes are killed then.
        """
        deadline = time.monotonic() + timeout
        try:
            while not (
                _trains(run_dir, self.processes[0].pid)
                and any(line.get("step", 0) >= step for line in _whole_lines(run_dir / "metrics.jsonl"))
            ):
                assert time.monotonic() < deadline, self.text()
                assert any(process.is_alive() for process in self.processes), self.text()
                time.sleep(0.01)
        except BaseException:
            self.wait(0)
            raise

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to these processes, or to all."""
        for rank in ranks or range(len(self.processes)):
            os.kill(self.processes[rank].pid or 0, number)
        self._signalled.touch()

    def text(self) -> str:
        """What the processes printed."""
        return "\n".join(
            Path(f"{self.log}.{rank}").read_text()
            for rank in range(len(self.processes))
            if Path(f"{self.log}.{rank}").exists()
        )


def train(
    arguments: Sequence[object],
    world_size: int,
    log: Path,
    *,
    code: int = 0,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> str:
    """Run to the end, expect the same exit code of every process, return what was printed."""
    run = Run(arguments, world_size, log, before, **environment)
    codes = run.wait()
    assert codes == [code] * world_size, f"exit codes {codes}\n{run.text()}"
    return run.text()


def _forked(work: Callable[[], object], cwd: str, environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the server has looked it up
    os.chdir(cwd)
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code: Any = 1
    try:
        code = work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def forked(
    work: Callable[[], object], *, cwd: Path, log: Path, env: Mapping[str, str]
) -> tuple[int | None, str]:
    """Do this in a process that has torch and has computed nothing; its exit code and what it printed.

    Quicker than a fresh one by the seconds that imports take. Its command line is the server's.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_forked, args=(work, str(cwd), dict(env), str(log)))
    process.start()
    process.join(600)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode, log.read_text()


def command(words: Sequence[object], **where: Any) -> tuple[int | None, str]:
    """`dydist` with these words, `forked`."""
    from dydist.cli.main import main

    return forked(functools.partial(main, [str(word) for word in words]), **where)


def _trains(run_dir: Path, pid: int | None) -> bool:
    """Whether it is process `pid` that the run's status tells of: it takes signals then."""
    try:
        return bool(json.loads((run_dir / "status.json").read_text())["pid"] == pid)
    except FileNotFoundError:
        return False


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that may not be there yet, and may be in the middle of a write."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def metrics(run_dir: Path, kind: str = "step") -> list[dict[str, Any]]:
    """The lines of one kind in metrics.jsonl."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
