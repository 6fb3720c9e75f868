"""The rank and world size of this process, from the launcher's environment variables. Does not import torch.

`accelerate launch` and torchrun set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. `srun` sets SLURM's
own variables, which `variables_of_srun` translates. For a launcher's options for training, see `launcher_settings`.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dydist.errors import UserError

_ACCELERATE = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_DYNAMO_MODE",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH",
)
"""`accelerate launch` always sets all of these; a user may set one or two."""
_LAST_STEP = 0xFFFFFFF0
"""SLURM's highest number of an `srun` step; higher ones denote batch scripts and interactive shells."""
FIRST_PORT, PORTS = 12_000, 8_000
"""Ports for the rendezvous of an `srun` step: below Linux's ephemeral ports and those of `dydist submit`."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of `world_size`; `local_rank` and `local_world_size` count the processes of this node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Process:
        """Read the launcher's variables; without a launcher, the world size is 1.

        Raises UserError if a variable is malformed. `check_rendezvous` checks that they are consistent.
        """
        return cls(
            rank=_number(environ, "RANK", 0, low=0),
            world_size=_number(environ, "WORLD_SIZE", 1, low=1),
            local_rank=_number(environ, "LOCAL_RANK", 0, low=0),
            local_world_size=_number(environ, "LOCAL_WORLD_SIZE", 1, low=1),
        )


def check_rendezvous(environ: Mapping[str, str]) -> None:
    """Raise UserError if the variables contradict each other, or one that several processes need is missing."""
    size = Process.from_environment(environ).world_size
    for name in ("RANK", "LOCAL_RANK"):
        _number(environ, name, 0, low=0, high=size - 1)
    _number(environ, "LOCAL_WORLD_SIZE", 1, low=1, high=size)
    if size == 1:
        return
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise UserError(
                f"{name}: is not set, but WORLD_SIZE is {size}; start the processes with accelerate launch, "
                "torchrun or srun, which set both, or unset WORLD_SIZE to run one process"
            )
    _number(environ, "MASTER_PORT", 0, low=1, high=65_535)


def has_launcher(environ: Mapping[str, str]) -> bool:
    """Whether this process's parent is `accelerate launch` or torchrun.

    A single variable proves nothing, since users set ACCELERATE_LOG_LEVEL or RANK in their shells.
    """
    return "TORCHELASTIC_RUN_ID" in environ or all(name in environ for name in _ACCELERATE)


def join_step(environ: MutableMapping[str, str]) -> None:
    """If `srun` started this process directly, set the variables that a launcher would set.

    Raises UserError if the address of the step's first node cannot be resolved here.
    """
    found = variables_of_srun(environ)
    if "MASTER_ADDR" in found:
        found["MASTER_ADDR"] = _address(found["MASTER_ADDR"])
    environ.update(found)


def variables_of_srun(environ: Mapping[str, str], pid: int | None = None) -> dict[str, str]:
    """RANK, WORLD_SIZE and the other variables of an `srun` task; empty if this is not a task, or has a launcher.

    A batch script and an allocation's shell also have SLURM_PROCID and SLURM_NTASKS, but belong to no step. With a
    terminal (`srun --pty`), only the process that `srun` itself started is a task, not commands typed in its shell
    (`pid`: by default this process's). MASTER_ADDR is the step's first node, unless the user has set it; likewise
    MASTER_PORT. Raises UserError if a variable is malformed.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if has_launcher(environ) or "WORLD_SIZE" in environ or not step.isdigit() or int(step) >= _LAST_STEP:
        return {}
    if "SLURM_PTY_PORT" in environ and environ.get("SLURM_TASK_PID") != str(pid or os.getpid()):
        return {}
    size = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1, low=1), low=1)
    if size == 1:
        return {}
    node = _number(environ, "SLURM_NODEID", 0, low=0)
    counts = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", len(counts) or 1, low=1)
    first = first_host(environ.get("SLURM_STEP_NODELIST", "")) if nodes > 1 else "127.0.0.1"
    job = _number(environ, "SLURM_JOB_ID", 0, low=0)
    found = {
        "RANK": str(_number(environ, "SLURM_PROCID", 0, low=0, high=size - 1)),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(_number(environ, "SLURM_LOCALID", 0, low=0, high=size - 1)),
        "LOCAL_WORLD_SIZE": str(counts[node] if node < len(counts) else size),
    }
    meeting = {"MASTER_ADDR": first, "MASTER_PORT": str(FIRST_PORT + (job * 37 + int(step) * 101) % PORTS)}
    return found | {name: value for name, value in meeting.items() if not environ.get(name)}


def tasks_per_node(text: str) -> list[int]:
    """Parse SLURM's `2(x3),1` to [2, 2, 2, 1]; empty if it has another form."""
    counts: list[int] = []
    for part in text.split(","):
        if (match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip(), re.ASCII)) is None:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_host(nodelist: str) -> str:
    """The first name of a SLURM node list: `gpu-a01-x` for `gpu-a[01-03,7]-x,b1`."""
    first = re.split(r",(?![^\[]*\])", nodelist, maxsplit=1)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def _address(host: str) -> str:
    """`host` if it can be resolved, else SLURM's address of that node."""
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        pass
    try:
        node = subprocess.run(
            ["scontrol", "show", "node", "--oneliner", host], capture_output=True, timeout=30, check=True
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        node = ""
    if (match := re.search(r"\bNodeAddr=(\S+)", node)) is not None and match[1] != host:
        return match[1]
    raise UserError(
        f"MASTER_ADDR: the step's first node, {host or 'which SLURM_STEP_NODELIST does not name'}, cannot be "
        "resolved; set MASTER_ADDR to an address of that node, or use dydist submit"
    )


def _number(environ: Mapping[str, str], name: str, default: int, *, low: int, high: int | None = None) -> int:
    """A variable as an integer within its range; `default` if it is not set."""
    if (text := environ.get(name)) is None:
        return default
    most = 10**18 if high is None else high
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= most:
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        if high is not None and name != "MASTER_PORT":
            allowed += f", as WORLD_SIZE is {environ.get('WORLD_SIZE', 'not set')}"
        raise UserError(
            f"{name}: the environment has {text!r}; it must be a whole number {allowed}; unset it, or start the "
            "run with accelerate launch, torchrun or srun, which set it"
        )
    return int(text)
