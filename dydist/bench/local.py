"""Starting a benchmark's processes on this machine, with the environment that a launcher gives them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def run_processes(module: str, arguments: Sequence[str], world_size: int) -> str:
    """Run `python -m module arguments…` as `world_size` processes; what process 0 printed.

    Raises RuntimeError with the last lines of a process that failed.
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
    outputs = [process.communicate() for process in processes]
    for rank, (process, (_, errors)) in enumerate(zip(processes, outputs, strict=True)):
        if process.returncode:
            raise RuntimeError(f"process {rank} ended with {process.returncode}:\n{errors[-2000:]}")
    return outputs[0][0]
