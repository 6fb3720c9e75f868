"""Giving the tasks of a submission to the cluster: as one job, a job array, or several arrays (MaxArraySize)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from dydist.jobs import slurm
from dydist.jobs.node.task import NodeTask
from dydist.jobs.submission.sbatch import Submission, build_executor

if TYPE_CHECKING:
    import submitit

_ERRNO = "errno "


def hand_over(submission: Submission) -> list[str]:
    """Submit; the job id of each spec. Raises submitit's error with sbatch's words where SLURM refuses.

    Where SLURM refuses one of several arrays, those before it are cancelled: all are submitted, or none.
    """
    tasks = [NodeTask(spec) for spec in submission.specs]
    if submission.cluster == "local":
        executor = build_executor(submission)
        return [_submit_detached(executor, task) for task in tasks]
    if len(tasks) == 1:
        return [str(build_executor(submission).submit(tasks[0]).job_id)]
    ids: list[str] = []
    heads: list[str] = []
    try:
        for array in arrays(len(tasks), slurm.max_array_size(), submission.parallel):
            after = None if array.after is None else heads[array.after]
            executor = build_executor(replace(submission, parallel=array.parallel, after=after))
            found = [str(job.job_id) for job in executor.submit_array(tasks[array.start : array.stop])]
            heads.append(found[0].partition("_")[0])
            ids += found
    except BaseException:
        for head in heads:  # the caller removes the code that their runs need
            slurm.cancel(head)
        raise
    return ids


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
