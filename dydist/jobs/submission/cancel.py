"""Cancels jobs, with or without a save."""

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
    """End one job; returns a message on what was done.

    A running job is asked to finish its step, save and stop, and is not requeued; with `now`, or if it is not
    running, it is ended at once.
    """
    job = str(record["job"])
    status = statuses([record])[0]
    if status.scheduler == "UNREACHABLE":
        raise slurm.SlurmError(status.message)
    if status.ended:
        return f"job {job} has ended already ({status.state})"
    # The decision at the job's end takes this file into account.
    write_json(Path(record["log_dir"]) / "cancel.json", {"time": time.time(), "now": now})
    waiting = status.state in ("pending", "requeued")
    at_once = now or waiting
    if record["cluster"] == "local":
        _end_local(int(job), now=now)
    elif at_once or status.state == "starting":  # there is nothing to save yet
        slurm.cancel(job)
        at_once = True
    elif status.state == "suspended":  # scancel would wait until it is resumed
        return (
            f"job {job} is suspended: it saves and stops as soon as it is resumed (scontrol resume {job}); "
            "with --now it ends at once, and does not save"
        )
    else:
        try:
            slurm.send_signal(job, "USR2")
        except slurm.SlurmError as error:
            return _ended_meanwhile(record, error)
    if at_once:
        return f"job {job} is ended"
    return f"job {job} was asked to save and stop; see `dydist logs --follow {job}`"


def cancel_all(records: Sequence[Mapping[str, Any]], *, now: bool = False) -> Iterator[tuple[str, bool]]:
    """`cancel` each job; yields a message, and whether it succeeded."""
    for record in records:
        try:
            yield cancel(record, now=now), True
        except (UserError, OSError) as error:
            yield f"job {record['job']} could not be cancelled: {error}", False


def _ended_meanwhile(record: Mapping[str, Any], error: slurm.SlurmError) -> str:
    """SLURM could not signal a running job: cancel it if it is queued, report its end, or raise `error`."""
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
    """submitit's controller forwards SIGTERM to its task, which forwards the request to training."""
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
