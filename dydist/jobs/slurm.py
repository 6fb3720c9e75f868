"""SLURM's commands, with clear errors if they are missing, refuse, or do not answer."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dydist.errors import UserError
from dydist.jobs.slurm_environment import cleaned

MISSING = "no SLURM on this machine; log in to the cluster's login node, or use --cluster local"
TIMEOUT_S = 60.0
TRIES = 4
TRANSIENT = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Resource temporarily unavailable",
)
"""Messages of SLURM's commands while the controller restarts, is down or is busy."""
_UNKNOWN_JOB = ("Invalid job id", "Invalid job array id")


class SlurmError(UserError):
    """SLURM refused, or does not answer."""


class NoAnswerError(SlurmError):
    """SLURM's controller does not answer."""


_silent_since: dict[str, float] = {}
"""When SLURM stopped answering this process (unix seconds); empty while it answers."""


def available() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sbatch", path=cleaned()["PATH"]) is not None


def ask(*command: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a SLURM command once, in the cleaned environment; accepts any exit code.

    Raises SlurmError if the command does not exist, and subprocess.TimeoutExpired.
    """
    environment = cleaned()
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise SlurmError(f"{command[0]}: {MISSING}")
    words = [program, *command[1:]]
    return subprocess.run(
        words, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, env=environment
    )


def answer(
    *command: str, timeout_s: float = TIMEOUT_S, tries: int = TRIES
) -> subprocess.CompletedProcess[str]:
    """The result of a command. Retries with growing pauses while the controller restarts or is busy.

    Raises SlurmError: no such command, no answer.
    """
    pause = 0.5
    for left in reversed(range(tries)):
        try:
            result = ask(*command, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            text = f"no answer within {timeout_s:g} s"
        else:
            text = _said(result)
            if result.returncode == 0 or not any(sign in text for sign in TRANSIENT):
                _silent_since.clear()
                return result
        since = _silent_since.setdefault("since", time.time())
        if left:
            time.sleep(pause)
            pause *= 2
    raise NoAnswerError(
        f"SLURM does not answer since {time.strftime('%H:%M:%S', time.localtime(since))} "
        f"(`{shlex.join(command)}`: {text}); see whether the controller is up (scontrol ping), then try again"
    )


def run(*command: str, timeout_s: float = TIMEOUT_S, tries: int = TRIES) -> str:
    """A command's output, with retries as in `answer`. Raises SlurmError: no such command, refused, no answer."""
    result = answer(*command, timeout_s=timeout_s, tries=tries)
    if result.returncode:
        raise SlurmError(f"SLURM refused `{shlex.join(command)}`: {_said(result)[:300]}")
    return result.stdout


def max_array_size() -> int:
    """The maximum size of a job array on this cluster (MaxArraySize)."""
    match = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", run("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else 1001  # SLURM's own default


def _said(result: subprocess.CompletedProcess[str]) -> str:
    return " ".join((result.stderr.strip() or result.stdout.strip()).split())


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """SLURM's information on one job or array element. `job`: 12, or 12_3 for element 3 of array 12."""

    job: str
    state: str
    nodes: str = ""
    reason: str = ""
    comment: str = ""


ENDED = frozenset(
    {
        "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
        "PREEMPTED", "REVOKED",
    }
)  # fmt: skip
"""Final states of a job."""


def jobs(ids: Sequence[str] = (), *, tries: int = TRIES) -> dict[str, JobInfo]:
    """The jobs of `ids`, or all of this user's, known to the controller; arrays by element. One call to SLURM."""
    format_ = "--format=%i|%T|%N|%r|%k"
    if ids:
        # squeue omits unknown ids among several; a single unknown id is an error with the same meaning.
        wanted = ",".join(sorted({one.partition("_")[0] for one in ids}, key=int))
        try:
            text = run(
                "squeue", "--noheader", "--array", "--states=all", f"--jobs={wanted}", format_, tries=tries
            )
        except SlurmError as error:
            if not any(sign in str(error) for sign in _UNKNOWN_JOB):
                raise
            text = ""
    else:
        text = run("squeue", "--noheader", "--array", "--states=all", "--me", format_, tries=tries)
    found = {}
    for line in text.splitlines():
        if line.count("|") < 4:  # with SLURM_CLUSTERS a line names the cluster
            continue
        job, state, nodes, reason, comment = [part.strip() for part in line.split("|", 4)]
        found[job] = JobInfo(job=job, state=state, nodes=nodes, reason=_no(reason), comment=_no(comment))
    return (
        found
        if not ids
        else {job: info for job, info in found.items() if job in ids or job.partition("_")[0] in ids}
    )


def without_strangers(found: Mapping[str, JobInfo], folders: Mapping[str, Path]) -> dict[str, JobInfo]:
    """`found` without jobs of others that have the number of one of ours.

    A controller that crashes forgets the jobs of its last seconds and gives their numbers again. `folders`: our jobs'
    run folders, which a job's comment names, or the folder of their sweep.
    """

    def is_ours(info: JobInfo) -> bool:
        folder, named = folders.get(info.job), info.comment.removeprefix("dydist:")
        return folder is None or not named or Path(named) in (folder, *folder.parents)

    return {job: info for job, info in found.items() if is_ours(info)}


def accounting(ids: Sequence[str]) -> dict[str, JobInfo]:
    """The same from sacct, for jobs that the controller has forgotten; empty without accounting."""
    if not ids:
        return {}
    wanted = ",".join(sorted({one.partition("_")[0] for one in ids}))
    try:
        text = run(
            "sacct", "--noheader", "--parsable2", "--allocations", "--jobs", wanted,
            "--format=JobID,State,NodeList,Reason", tries=1, timeout_s=20,
        )  # fmt: skip
    except SlurmError:
        return {}
    found = {}
    for line in text.splitlines():
        if line.count("|") < 3:
            continue
        job, state, nodes, reason = line.split("|")[:4]
        found[job] = JobInfo(
            job=job, state=state.split()[0] if state else "UNKNOWN", nodes=nodes, reason=_no(reason)
        )
    return found


def show(job: str, *, tries: int = TRIES) -> dict[str, str]:
    """`scontrol show job` as a mapping; empty for a job the controller does not know."""
    try:
        text = run("scontrol", "--oneliner", "show", "job", job, tries=tries)
    except SlurmError as error:
        if any(sign in str(error) for sign in _UNKNOWN_JOB):
            return {}
        raise
    return dict(re.findall(r"(\S+?)=(\S*)", text.splitlines()[0] if text else ""))


def down(nodes: Sequence[str]) -> list[str]:
    """Which of these nodes SLURM says are down. Raises SlurmError."""
    words = ("--noheader", "--Node", f"--nodes={','.join(nodes)}", "--states=down", "--format=%N")
    return sorted(set(run("sinfo", *words, tries=1, timeout_s=10).split()))


def end_time(job: str) -> float | None:
    """When the job's time limit ends it (unix seconds); None if it has none or SLURM does not report it."""
    try:
        return datetime.fromisoformat(show(job, tries=1).get("EndTime", "")).timestamp()
    except (SlurmError, ValueError):  # "Unknown": the time is optional
        return None


def cancel(job: str) -> None:
    run("scancel", job)


def send_signal(job: str, name: str) -> None:
    """Send a signal to all processes of the job's steps; no effect on a job that has not started."""
    run("scancel", f"--signal={name}", job)


def _no(text: str) -> str:
    return "" if text in ("(null)", "None", "N/A") else text
