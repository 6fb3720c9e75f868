"""Starts the processes of one node, and logs their output with time and rank, in one file per node."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dydist.jobs.node.scratch import Scratch, sweep
from dydist.jobs.spec import JobSpec
from dydist.process.launcher_settings import SETTINGS
from dydist.text.redaction import scrub

LINES_KEPT = 25
"""Number of each rank's last lines that are kept for the report of a failure."""
_PREFIX = re.compile(rb"^\[default(\d+)\]:")
_PORT_TAKEN = (b"EADDRINUSE", b"ddress already in use", b"another process is utilizing it")
_PR_SET_PDEATHSIG = 1
_OF_THE_SCHEDULER = ("SLURM_", "SUBMITIT_", "PMI")


@dataclass(frozen=True, kw_only=True)
class NodeRank:
    """The position of one node's processes in the job."""

    node: int
    nodes: int
    address: str
    port: int


def command(spec: JobSpec, place: NodeRank, *, log_dir: str = "") -> list[str]:
    """The command line of one node. A single process needs no launcher; several use `accelerate launch`."""
    total = place.nodes * spec.processes_per_node
    program = [spec.program, *spec.arguments]
    if total == 1:
        return [spec.python, "-u", *program]
    options = [
        f"--num_machines={place.nodes}",
        f"--machine_rank={place.node}",
        f"--num_processes={total}",
        f"--main_process_ip={place.address}",
        f"--main_process_port={place.port}",
        "--multi_gpu",  # several processes, which choose CPU and gloo themselves if there is no GPU
        "--same_network",
        "--rdzv_backend=static",
        "--max_restarts=0",
        "--monitor_interval=0.5",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--tee=3",
        *([f"--log_dir={log_dir}"] if log_dir else []),
    ]
    return [spec.python, "-u", "-m", "accelerate.commands.launch", *options, *program]


def environment(
    spec: JobSpec,
    *,
    job: str,
    attempt: int,
    node: str,
    exit_dir: Path,
    until: float | None = None,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Environment of the training processes: the node's variables, the profile's, and those that describe the job.

    `until`: when the scheduler will end the job (unix seconds), if known.
    """
    theirs = {
        setting.variable for setting in SETTINGS
    }  # from a login shell; a job's settings are in its configuration
    found = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OF_THE_SCHEDULER) and name not in theirs
    }
    found |= {
        "PYTHONPATH": spec.code,
        "PYTHONUNBUFFERED": "1",
        "DYDIST_JOB": job,
        "DYDIST_ATTEMPT": str(attempt),
        "DYDIST_NODE": node,
        "DYDIST_EXIT_DIR": str(exit_dir),
        # torch's agent (prefix PET_): dydist forwards signals itself, and the agent must not kill processes that are
        # still saving 30 s after one has exited. dydist kills them where necessary.
        "PET_SIGNALS_TO_HANDLE": "SIGINT",
        "PET_SHUTDOWN_TIMEOUT": "3600",
    }
    if until is not None:
        found |= {"DYDIST_UNTIL": str(until)}
    if spec.interface is not None:
        found |= {"NCCL_SOCKET_IFNAME": spec.interface, "GLOO_SOCKET_IFNAME": spec.interface}
    if spec.cpu:
        found |= {"CUDA_VISIBLE_DEVICES": ""}
    return found | dict(spec.env)


class Launch:
    """The running processes of one node.

    The scheduler's signals reach the whole job. The launcher ignores them (an ignored signal stays ignored across
    exec, until training installs its handlers), so that it neither dies nor kills processes that are saving.
    """

    def __init__(self, spec: JobSpec, place: NodeRank, env: Mapping[str, str], log: NodeLog) -> None:
        sweep()
        self._tee = Scratch()
        self._log = log
        self._first_rank = place.node * spec.processes_per_node
        self.port_taken = False
        self.quiet = False
        """Drop the launcher's own lines: after its processes have exited, it prints tracebacks about their exit
        codes."""
        self.process = subprocess.Popen(
            command(spec, place, log_dir=str(self._tee.path)),
            cwd=spec.workdir,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_prepare_child,
        )
        self._alone = place.nodes * spec.processes_per_node == 1
        self._reader = threading.Thread(target=self._relay, name="dydist-relay", daemon=True)
        self._reader.start()

    def _relay(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if any(text in line for text in _PORT_TAKEN):
                self.port_taken = True
            match = _PREFIX.match(line)
            rank = self._first_rank + int(match.group(1)) if match else (0 if self._alone else None)
            if rank is None and self.quiet:
                continue
            text = (line[match.end() :] if match else line).decode(errors="replace")
            self._log.write(text.rstrip("\r\n"), rank)

    def kill(self) -> None:
        """SIGKILL the launcher and its descendants, and wait for it."""
        import psutil

        try:
            victims = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            victims = []
        self.process.kill()
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        self.close(timeout_s=5)

    def close(self, *, timeout_s: float) -> None:
        """Wait for the launcher's exit and its last lines; kill it after `timeout_s`."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return
        self._reader.join(5)
        if not self._reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()
        self._tee.remove()


class NodeLog:
    """Writes lines such as `2026-01-31T12:00:00.123 [rank 3] text`; keeps the last lines of each rank."""

    def __init__(self, path: Path, node: int, echo: IO[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._node, self._echo = node, echo
        self._lock = threading.Lock()
        self._last: dict[int | None, deque[str]] = {}

    def write(self, text: str, rank: int | None = None) -> None:
        """Write a line of a rank, or of the node itself, without secrets, which a library may have printed."""
        text = scrub(text)
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        who = f"node {self._node}" if rank is None else f"rank {rank}"
        with self._lock:
            self._last.setdefault(rank, deque(maxlen=LINES_KEPT)).append(text)
            self._file.write(f"{stamp} [{who}] {text}\n")
            if rank is None:
                print(text, file=self._echo, flush=True)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def last_lines(self, rank: int | None) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._last.get(rank, ()))


def _prepare_child() -> None:
    """Run in the launcher before exec: ignore signals; on Linux, request SIGKILL when the parent exits (prctl(2)).

    If the task is killed, SLURM's process tracking may lose its launcher.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
