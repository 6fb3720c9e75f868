"""`dydist submit`, `status`, `logs`, `cancel`: runs as jobs of a cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dydist.cli.launch_options import LaunchOptions
from dydist.config.types import Count, FilePath, Index
from dydist.errors import EXIT_DONE, EXIT_ERROR, UserError
from dydist.text import display

if TYPE_CHECKING:
    from dydist.jobs.submission.status import JobStatus

Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE ...")]
Names = Annotated[tuple[FilePath, ...], tyro.conf.Positional, tyro.conf.arg(metavar="JOB|FOLDER|NAME ...")]

WIDE = 1000
"""Width of `dydist status` in characters if its output is not a terminal."""


def submit(
    *,
    run: Words,
    cluster: Literal["slurm", "local"] = "slurm",
    launch: Annotated[LaunchOptions, tyro.conf.OmitArgPrefixes],
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    wait: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Submit a run. Its job is requeued after time limits, preemption and lost nodes.

    Example: dydist submit --nodes 2 --gpus-per-node 4 --time 12:00:00 -- launch/recipes/cifar10.yaml --optim.lr 0.2

    Args:
        run: After --: a recipe's path, then flags of dydist/train.py over it. Or a program that calls dydist.train,
            then -- and such flags (none of its own): my_train.py -- --optim.lr 0.2.
        cluster: slurm; or local, the same on this machine.
        dry_run: Submit nothing: show the sbatch file, each node's command, and what SLURM says of it.
        wait: Follow the log until the job ends; the exit code is the job's.
        json_: Print JSON.
    """
    from dydist.jobs.submission import submit as jobs

    if not run:
        raise UserError(
            "submit: no recipe is named, and no flag is given; write one after --: dydist submit -- cifar10-small"
        )
    submission = jobs.prepare_run(run, launch.merged(), cluster=cluster)
    if dry_run:
        return _show_dry_run(submission, as_json=json_)
    ids = jobs.submit(submission, recipe=jobs.recipe_of(jobs.flags_of(run)))
    if json_:
        print(json.dumps({"job": ids[0], "run_dir": submission.specs[0].run_dir}))
    else:
        display.show(
            f"job {ids[0]} submitted; run folder {submission.specs[0].run_dir}",
            file=sys.stderr if wait else sys.stdout,
        )
        if not wait:
            display.show(
                f"see: dydist status {ids[0]} | dydist logs --follow {ids[0]} | dydist cancel {ids[0]}"
            )
    return follow(ids[0]) if wait else EXIT_DONE


def status(
    *,
    which: Names = (),
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Show the state of jobs and runs: all jobs that were submitted from here, or the named ones.

    Example: dydist status --watch runs/cifar10

    Args:
        which: Job ids, elements of an array as in 42_[0,2-4], run folders, sweep folders or names of runs.
        watch: Show it again every two seconds, until all have ended.
        json_: Print JSON: a list, one object per job.
    """
    from rich.live import Live

    from dydist.cli.jobs_view import render
    from dydist.jobs.submission.interface import status as look

    if json_:
        print(json.dumps([dataclasses.asdict(one) for one in look(*which)], indent=1))
        return EXIT_DONE
    # A file or another program gets whole lines; rich would wrap them after 80 characters.
    whole = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = display.console(width=WIDE if whole else None)
    found = look(*which)
    if not found:
        display.show("no job was submitted from here; submit one: dydist submit --help", file=sys.stderr)
        return EXIT_DONE
    if not watch:
        console.print(render(found))
        return EXIT_DONE
    with Live(render(found), console=console, auto_refresh=False) as live:
        while not all(one.ended for one in found):
            time.sleep(2)
            found = look(*which)
            live.update(render(found), refresh=True)
    return EXIT_DONE


def logs(
    *,
    which: Annotated[FilePath, tyro.conf.Positional, tyro.conf.arg(metavar="JOB|FOLDER|NAME")],
    rank: Index | None = None,
    start: Index | None = None,
    follow_: Annotated[
        bool, tyro.conf.arg(name="follow", aliases=["-f"]), tyro.conf.FlagCreatePairsOff
    ] = False,
    tail: Count | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Show what a job's processes printed, merged by time; a failure's rank, node and last lines come first.

    Example: dydist logs --follow --rank 0 1234

    Args:
        which: A job id, a run folder or the name of a run.
        rank: Only this process.
        start: Only the start of this number (0 is the first). Default: all.
        follow_: Show new lines as they are written, until the job ends.
        tail: Only the last N lines.
        json_: Print JSON: one object per line.
    """
    from dydist.jobs.submission.logs import Line, failure_header, read_log
    from dydist.jobs.submission.registry import find
    from dydist.jobs.submission.status import statuses
    from dydist.jobs.submission.task_log import task_log

    def show(line: Line) -> None:
        if json_:
            print(json.dumps(dataclasses.asdict(line)), flush=True)
        else:
            display.show(line)

    record = find(which)[-1]
    if follow_:
        return follow(str(record["job"]), record=record, rank=rank, show=show)
    header = failure_header(statuses([record])[0])
    if header and not json_:
        display.show(header + "\n", lines=True)
    lines = list(read_log(Path(record["log_dir"]), start=start, rank=rank))
    for line in lines[-tail:] if tail else lines:
        show(line)
    if not lines and not json_:
        who = "" if rank is None else f"rank {rank} of "
        text = task_log(record) if rank is None and start is None else ""
        display.show(text or f"{who}job {record['job']} has printed nothing yet", lines=True)
    return EXIT_DONE


def follow(
    job: str, *, record: dict[str, Any] | None = None, rank: int | None = None, show: Any = display.show
) -> int:
    """Show a job's log until it ends; returns its exit code."""
    from dydist.jobs.submission.logs import failure_header, follow_log
    from dydist.jobs.submission.registry import find
    from dydist.jobs.submission.status import statuses
    from dydist.jobs.submission.task_log import task_log

    known = record or find(job)[-1]
    last: list[JobStatus] = []
    asked = 0.0

    def ended() -> bool:
        nonlocal asked
        if time.monotonic() - asked >= 1.0:  # limits the requests to SLURM
            last[:] = statuses([known])
            asked = time.monotonic()
        return last[0].ended and last[0].scheduler not in ("RUNNING", "COMPLETING")

    seen = False
    for line in follow_log(Path(known["log_dir"]), rank=rank, ended=ended):
        seen = True
        show(line)
    if not seen and rank is None:
        display.show(task_log(known).rstrip("\n"), lines=True)
    if header := failure_header(last[0]):
        display.show(header, lines=True, file=sys.stderr)
    state, reason = last[0].state, last[0].reason.rstrip(". ")
    told = reason if reason.startswith(state) else f"{state}: {reason}" if reason else state
    display.show(f"job {known['job']}: {told}.", file=sys.stderr)
    return last[0].code


def cancel(
    *,
    which: Names,
    now: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """End jobs: each finishes its step, saves, and is not requeued.

    Example: dydist cancel 1234

    Args:
        which: Job ids, elements of an array as in 42_[0,2-4], run folders, sweep folders or names of runs.
        now: Do not save first.
    """
    from dydist.jobs.submission.cancel import cancel_all
    from dydist.jobs.submission.registry import find

    if not which:
        raise UserError("cancel: name at least one job, run folder or run")
    records = {str(one["job"]): one for name in which for one in find(name)}  # duplicates are cancelled once
    code = EXIT_DONE
    for text, well in cancel_all(list(records.values()), now=now):
        display.show(text, file=sys.stdout if well else sys.stderr)
        code = code if well else EXIT_ERROR
    return code


def _show_dry_run(submission: Any, *, as_json: bool) -> int:
    from dydist.jobs import slurm
    from dydist.jobs.submission import submit as jobs
    from dydist.jobs.submission.sbatch import ask_slurm

    found = dict(jobs.describe(submission))
    found["slurm"] = (
        ask_slurm(found["sbatch"], submission.profile) if found["sbatch"] and slurm.available() else None
    )
    if as_json:
        print(json.dumps(found, indent=1))
        return EXIT_DONE
    if found["sbatch"]:
        display.show(found["sbatch"], lines=True)
    for run in found["runs"]:
        display.show(f"# in {os.getcwd()}, for {run['run_dir']}:")
        for node, command in enumerate(run["nodes"]):
            display.show(f"# node {node}:\n{command}", lines=True)
    if submission.cluster == "slurm":
        display.show(f"# SLURM: {found['slurm'] or 'not on this machine; nothing was asked'}")
    return EXIT_DONE


COMMANDS = {"submit": submit, "status": status, "logs": logs, "cancel": cancel}
