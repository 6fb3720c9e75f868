"""Starts the processes of a benchmark or a check on this machine, with the environment that a launcher sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack

GRACE_S = 10.0
"""Seconds that the others have to end, after one has failed: one of them may be about to print the error of all."""


class ProcessError(RuntimeError):
    """A process exited with another code than expected, or not in time (`code` None). `said`: its standard error."""

    def __init__(self, message: str, code: int | None = None, said: str = "") -> None:
        super().__init__(message)
        self.code, self.said = code, said


def run_processes(
    arguments: Sequence[str],
    world_size: int,
    *,
    timeout_s: float = 3600.0,
    expected: int = 0,
    base: Mapping[str, str] = os.environ,
) -> str:
    """Run `python arguments…` as `world_size` processes in the environment `base`; returns the output of process 0.

    Raises ProcessError with the last output of a process whose exit code is not `expected`, or if one has not exited
    after `timeout_s` seconds: the first that failed or, unless a signal ended it, one that printed `dydist: `. The
    others are killed.
    """
    processes: list[subprocess.Popen[str]] = []
    ends: list[Future[tuple[str, str]]] = []

    def failures(ended: Iterable[Future[tuple[str, str]]]) -> Iterator[ProcessError]:
        for end in ended:
            rank = ends.index(end)
            try:
                _, said = end.result()
            except subprocess.TimeoutExpired:
                yield ProcessError(f"process {rank} had not ended after {timeout_s:g} s")
                continue
            if (code := processes[rank].returncode) != expected:
                yield ProcessError(f"process {rank} ended with {code}:\n{said[-2000:]}", code, said)

    with ExitStack() as started, ThreadPoolExecutor(world_size) as pool:
        try:
            for environment in _environments(world_size, base, started.enter_context(socket.socket())):
                process = subprocess.Popen(
                    [sys.executable, *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                )
                processes.append(started.enter_context(process))
            # read from each while it runs: a full pipe would block it
            ends += [pool.submit(process.communicate, None, timeout_s) for process in processes]
            first = next(failures(as_completed(ends)), None)
            if first is not None:
                wait(ends, GRACE_S)
                found = [first, *failures(end for end in ends if end.done())]
                killed = first.code is not None and first.code < 0  # what the others say follows from it
                raise first if killed else max(found, key=lambda one: "dydist: " in one.said)
        finally:
            for process in processes:  # after a failure, the others would wait until a collective times out
                process.kill()
    return ends[0].result()[0]


def _environments(world_size: int, base: Mapping[str, str], reserved: socket.socket) -> list[dict[str, str]]:
    """Each process's environment, by rank. A single process gets no launcher variables.

    `reserved` stays bound to the port, so that it is not assigned again. With SO_REUSEADDR on both sockets, process 0
    can still listen on it.
    """
    if world_size == 1:
        return [dict(base)]
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    world = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [{**base, **world} | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
