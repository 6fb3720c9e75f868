"""Ending a job: it saves first, or at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.jobs import slurm
from dydist.jobs.files import write_json
from dydist.jobs.submission.status import statuses


def cancel(record: Mapping[str, Any], *, now: bool = False) -> str:
    """End one job; returns what was done, in words.

    A running job is asked to finish its step, save and stop, and does not come back; with `now`, or where it is
    not running, it is ended at once.
    """
    job = str(record["job"])
    status = statuses([record])[0]
    if status.scheduler == "UNREACHABLE":
        raise slurm.SlurmError(status.message)
    if status.ended:
        return f"job {job} has ended already ({status.state})"
    # Whoever decides at the job's end sees this, however it ends.
    write_json(Path(record["log_dir"]) / "cancel.json", {"time": time.time(), "now": now})
    waiting = status.state in ("pending", "requeued")
    at_once = now or waiting
    if record["cluster"] == "local":
        _end_local(int(job), now=now)
    elif at_once or status.state == "starting":  # nothing is trained yet that could be saved
        slurm.cancel(job)
        at_once = True
    else:
        try:
            slurm.send_signal(job, "USR2")
        except slurm.SlurmError as error:
            return _ended_meanwhile(record, error)
    if at_once:
        return f"job {job} is ended"
    return f"job {job} was asked to save and stop; see `dydist logs --follow {job}`"


def cancel_all(records: Sequence[Mapping[str, Any]], *, now: bool = False) -> Iterator[tuple[str, bool]]:
    """`cancel` for each; what became of each in words, and whether that is what was asked for."""
    for record in records:
        try:
            yield cancel(record, now=now), True
        except (UserError, OSError) as error:
            yield f"job {record['job']} could not be cancelled: {error}", False


def _ended_meanwhile(record: Mapping[str, Any], error: slurm.SlurmError) -> str:
    """SLURM could not signal a job that ran a moment ago: it is back in the queue, or has ended, or `error` stands."""
    status = statuses([record])[0]
    if status.ended:
        return f"job {record['job']} has ended already ({status.state})"
    if status.scheduler == "COMPLETING":
        return f"job {record['job']} is ending already"
    if status.state in ("pending", "requeued"):
        slurm.cancel(str(record["job"]))
        return f"job {record['job']} is ended"
    raise error


def _end_local(controller: int, *, now: bool) -> None:
    """submitit's controller passes SIGTERM on to its task, which passes the request on to training."""
    if not now:
        os.kill(controller, signal.SIGTERM)
        return
    import psutil

    process = psutil.Process(controller)
    for one in (process, *process.children(recursive=True)):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
