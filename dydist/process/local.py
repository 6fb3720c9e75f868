"""Starts the processes of a benchmark or a check on this machine, with the environment that a launcher sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack


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

    Raises ProcessError with the last output of the first process whose exit code is not `expected`, or if one has not
    exited after `timeout_s` seconds; the others are killed.
    """
    with ExitStack() as started, ThreadPoolExecutor(world_size) as pool:
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                )
            )
            for environment in _environments(world_size, base, started.enter_context(socket.socket()))
        ]
        # read from each while it runs: a full pipe would block it
        ends = {pool.submit(process.communicate, None, timeout_s): process for process in processes}
        try:
            for end in as_completed(ends):
                rank = processes.index(ends[end])
                try:
                    _, said = end.result()
                except subprocess.TimeoutExpired as error:
                    raise ProcessError(f"process {rank} had not ended after {timeout_s:g} s") from error
                if (code := ends[end].returncode) != expected:
                    raise ProcessError(f"process {rank} ended with {code}:\n{said[-2000:]}", code, said)
        finally:
            for process in processes:  # after a failure, the others would wait until a collective times out
                process.kill()
    return next(end.result()[0] for end, process in ends.items() if process is processes[0])


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
