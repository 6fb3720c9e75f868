"""Which processes are a test cluster's: they name its configuration in their environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def processes_of(cluster: Mapping[str, Any], node: str | None = None) -> Iterator[int]:
    """The cluster's processes, or those of one node: daemons by our mark, tasks by SLURM's, and their relatives.

    slurmstepd's title overwrites its environment, so it is found as an ancestor of the tasks it runs. A task may take
    SLURM's variables from the processes that it starts, so these are found as descendants.
    """
    ours = f"SLURM_CONF={cluster['conf']}"
    tasks = set()
    for pid, variables in environments():
        if ours not in variables:
            continue
        mark = next((v.partition("=")[2] for v in variables if v.startswith("SLURMD_NODENAME=")), None)
        mark = mark or next(
            (v.partition("=")[2] for v in variables if v.startswith("TESTCLUSTER_NODE=")), None
        )
        if mark and (node is None or mark == node):
            tasks.add(pid)
    for pid in tuple(tasks):
        while (pid := parent(pid)) > 1 and command_name(pid) == "slurmstepd":
            tasks.add(pid)
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(parent(int(entry.name)), []).append(int(entry.name))
    new = list(tasks)
    while new:
        new = [child for pid in new for child in children.get(pid, []) if child not in tasks]
        tasks.update(new)
    yield from tasks - {os.getpid()}
    pid_file = Path(cluster["munge"]) / "pid"
    if node is None and pid_file.exists():
        pid = int(pid_file.read_text())
        if command_name(pid) == "munged":
            yield pid


def daemons(cluster: Mapping[str, Any], name: str) -> list[int]:
    """The slurmctld, or a node's slurmd."""
    wanted = {f"SLURM_CONF={cluster['conf']}", f"TESTCLUSTER_NODE={name}"}
    return [
        pid
        for pid, variables in environments()
        if wanted <= variables and command_name(pid).startswith("slurm")
    ]


def environments() -> Iterator[tuple[int, set[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                content = (entry / "environ").read_bytes()
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
            except OSError:
                continue
            yield int(entry.name), set(content.decode(errors="replace").split("\0"))


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def kill_all(cluster: Mapping[str, Any], node: str | None = None) -> bool:
    """Kill all processes of the cluster, or of a node, as a power cut does; whether that was done within 10 s.

    They are stopped first, so that none can report the end of another: slurmstepd would tell the controller that the
    batch script was killed, and the job would end as FAILED and not be requeued after a lost node. A process that just
    calls exec has no environment to read, so none may be left at two looks in a row.
    """
    deadline = time.monotonic() + 10
    stopped: set[int] = set()
    while more := set(processes_of(cluster, node)) - stopped:
        send(sorted(more), signal.SIGSTOP)
        stopped |= more
    looks = 0
    while looks < 2 and time.monotonic() < deadline:
        victims = list(processes_of(cluster, node))
        send(victims, signal.SIGKILL)
        looks = 0 if victims else looks + 1
        time.sleep(0.05)
    return looks == 2


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
