"""Submits the tasks of a submission to the cluster: as a job, a job array, or several arrays (MaxArraySize)."""

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
"""The names of submitit's files after sbatch has returned the job's number."""


class QueuedError(slurm.SlurmError):
    """A submission failed, but SLURM has, or may have, some of its jobs. Their files are kept."""


def hand_over(submission: Submission) -> list[str]:
    """Submit all specs, or none; returns the job id of each.

    If SLURM refuses one of several arrays, or the files of an accepted job cannot be written, the accepted jobs are
    cancelled. Raises submitit's error, with sbatch's message, if SLURM refuses. Raises QueuedError if the accepted
    jobs cannot be cancelled, or if it is unknown whether SLURM accepted one.
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
                f"the submission failed ({said}), but SLURM has accepted job {', '.join(left)} and does not cancel "
                f"it; cancel it yourself, then submit again: scancel {' '.join(left)}"
            ) from error
        if _unclear(error):
            raise QueuedError(
                f"SLURM may have taken the job ({said}); see `squeue --me`, and cancel it before you submit again"
            ) from error
        raise


def _submit_all(submission: Submission, tasks: Sequence[NodeTask], heads: list[str]) -> list[str]:
    """Submit the tasks; returns their job ids. Adds the number of each array to `heads` once SLURM has accepted it."""
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
    """The accepted job whose files could not be written; empty for any other error."""
    if not isinstance(error, OSError):
        return []
    names = (Path(str(name)).name for name in (error.filename, error.filename2) if name is not None)
    return [match[1] for name in names if (match := _NUMBERED.fullmatch(name))][:1]


def _unclear(error: BaseException) -> bool:
    """Whether SLURM may have accepted a job without returning its number."""
    if type(error).__module__.partition(".")[0] != "submitit":
        return False
    refused = isinstance(error.__cause__, subprocess.CalledProcessError)
    return not refused or "Socket timed out" in str(error)


def _withdrawn(submission: Submission, head: str) -> bool:
    """Cancel a job or array and remove its files; returns False if SLURM does not cancel it."""
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
    """One job array of a sweep: the runs `start` to `stop`, exclusive.

    `parallel`: how many of them may run at once. `after`: the index of the array that it waits for.
    """

    start: int
    stop: int
    parallel: int | None
    after: int | None


def arrays(runs: int, largest: int, parallel: int | None) -> list[Array]:
    """Split `runs` into arrays of nearly equal size, each of at most `largest` runs.

    `parallel`: how many runs of all arrays together may run at once. It is divided among the arrays. If there are
    more arrays than that, the later ones wait for earlier ones to end.
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
    """Submit to the local executor from a separate session.

    The executor's controller is a child of the submitting process. In our session it would end with the terminal,
    receive Ctrl-C, and keep our output open. Raises OSError if it cannot write its files.
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
