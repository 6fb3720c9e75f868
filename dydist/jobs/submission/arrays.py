"""Giving the tasks of a submission to the cluster: as one job, a job array, or several arrays (MaxArraySize)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dydist.jobs import slurm
from dydist.jobs.node.task import NodeTask
from dydist.jobs.submission.sbatch import Submission, build_executor

if TYPE_CHECKING:
    import submitit

_ERRNO = "errno "
_NUMBERED = re.compile(r"([0-9]+)(?:_[0-9]+)?_(?:submission\.sh|submitted\.pkl)")
"""The names that submitit gives its files once sbatch has told the job's number."""


class QueuedError(slurm.SlurmError):
    """SLURM has jobs of a submission that failed, or may have: their files must stay."""


def hand_over(submission: Submission) -> list[str]:
    """Submit; the job id of each spec. Raises submitit's error with sbatch's words where SLURM refuses.

    All are submitted, or none: where SLURM refuses one of several arrays, or the files of a job that it took cannot be
    written, what it has is cancelled. Raises QueuedError where that fails, or where it is unknown what SLURM has.
    """
    tasks = [NodeTask(spec) for spec in submission.specs]
    if submission.cluster == "local":
        executor = build_executor(submission)
        return [_submit_detached(executor, task) for task in tasks]
    heads: list[str] = []
    try:
        return _submit_all(submission, tasks, heads)
    except BaseException as error:
        said = " ".join(str(error).split())[-200:]
        left = [head for head in (*heads, *_taken(error)) if not _withdrawn(submission, head)]
        if left:
            raise QueuedError(
                f"SLURM has job {', '.join(left)}, and does not cancel it, of a submission that failed ({said}); "
                f"cancel it yourself, then submit again: scancel {' '.join(left)}"
            ) from error
        if _unclear(error):
            raise QueuedError(
                f"SLURM may have taken the job ({said}); see `squeue --me`, and cancel it before you submit again"
            ) from error
        raise


def _submit_all(submission: Submission, tasks: Sequence[NodeTask], heads: list[str]) -> list[str]:
    """The job id of each task; adds the number of each array to `heads` as soon as SLURM has it."""
    if len(tasks) == 1:
        return [str(build_executor(submission).submit(tasks[0]).job_id)]
    ids: list[str] = []
    for array in arrays(len(tasks), slurm.max_array_size(), submission.parallel):
        after = None if array.after is None else heads[array.after]
        executor = build_executor(replace(submission, parallel=array.parallel, after=after))
        found = [str(job.job_id) for job in executor.submit_array(tasks[array.start : array.stop])]
        heads.append(found[0].partition("_")[0])
        ids += found
    return ids


def _taken(error: BaseException) -> list[str]:
    """The job that SLURM took, where it is its files that could not be written then."""
    if not isinstance(error, OSError):
        return []
    names = (Path(str(name)).name for name in (error.filename, error.filename2) if name is not None)
    return [match[1] for name in names if (match := _NUMBERED.fullmatch(name))][:1]


def _unclear(error: BaseException) -> bool:
    """Whether SLURM may have taken a job without telling its number."""
    if type(error).__module__.partition(".")[0] != "submitit":
        return False
    refused = isinstance(error.__cause__, subprocess.CalledProcessError)
    return not refused or "Socket timed out" in str(error)


def _withdrawn(submission: Submission, head: str) -> bool:
    """Cancel a job or array, and remove its files; False where SLURM does not."""
    try:
        slurm.cancel(head)
    except (slurm.SlurmError, OSError):
        return False
    for path in submission.submitit.glob(f"{head}_*"):
        with suppress(OSError):
            path.unlink()
    return True


@dataclass(frozen=True)
class Array:
    """A part of a sweep that is one job array: its runs, how many of them run at once, and the array it waits for."""

    start: int
    stop: int
    parallel: int | None
    after: int | None


def arrays(runs: int, largest: int, parallel: int | None) -> list[Array]:
    """`runs` cut into arrays of at most `largest`, of nearly equal size.

    `parallel` is how many runs of all arrays together may run at once: the arrays share it. Where there are more arrays
    than that, the later ones wait for earlier ones to end.
    """
    count = -(-runs // largest)
    lanes = count if parallel is None else min(count, parallel)
    cuts = [runs * number // count for number in range(count + 1)]
    shares = [None if parallel is None else (parallel + lane) // lanes for lane in reversed(range(lanes))]
    return [
        Array(start, stop, shares[number % lanes], number - lanes if number >= lanes else None)
        for number, (start, stop) in enumerate(pairwise(cuts))
    ]


def _submit_detached(executor: submitit.Executor, task: NodeTask) -> str:
    """Submit to the local executor from a session of its own.

    Its controller is a child of the process that submits: in our session it would end with the terminal, be reached
    by Ctrl-C, and hold our output open for whoever reads that. Raises OSError where it cannot write its files.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.write(writer, str(executor.submit(task).job_id).encode())
            code = 0
        except OSError as error:
            os.write(writer, f"{_ERRNO}{error.errno}".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        job = answer.read()
    failed = os.waitpid(child, 0)[1]
    if (number := job.removeprefix(_ERRNO)) != job and number.isdecimal():
        raise OSError(int(number), os.strerror(int(number)), str(executor.folder))
    if failed or not job:
        raise RuntimeError(f"submitit's local executor could not start the job in {executor.folder}")
    return job
