"""Starting a benchmark's processes on this machine, with the environment that a launcher gives them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed


def run_processes(module: str, arguments: Sequence[str], world_size: int) -> str:
    """Run `python -m module arguments…` as `world_size` processes; what process 0 printed.

    Raises RuntimeError with the last lines of the first process that failed; the others are killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world_size):
        environment = dict(os.environ)
        if world_size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            environment |= {
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
            }
        command = [sys.executable, "-m", module, *arguments]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    with ThreadPoolExecutor(world_size) as pool:  # each is read from as it goes: a full pipe would stop it
        ends = {pool.submit(process.communicate): process for process in processes}
        try:
            for end in as_completed(ends):
                process = ends[end]
                if process.returncode:
                    said = end.result()[1][-2000:]
                    rank = processes.index(process)
                    raise RuntimeError(f"process {rank} ended with {process.returncode}:\n{said}")
        finally:
            for process in processes:  # after a failure: they would wait for it until a collective times out
                process.kill()
    return next(end.result()[0] for end, process in ends.items() if process is processes[0])
