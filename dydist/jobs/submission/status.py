"""The status of jobs, from SLURM, from the run's own status.json, and from the log folders of its starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dydist.errors import EXIT_DONE, EXIT_ERROR
from dydist.jobs import slurm
from dydist.jobs.attempt import Attempt, attempts, first_failure
from dydist.jobs.decide import SAVED, SILENT, lost
from dydist.jobs.files import read_json, read_lines, write_json
from dydist.jobs.submission.task_log import scheduler_words, task_log

FINAL = frozenset({"done", "failed", "cancelled", "stopped", "lost", "gone"})
"""States in which a job has ended and does not come back."""
ENDED = "ended.json"
"""File in a job's log folder: the final state that SLURM reported."""
OUTPUT_LINES = 12
"""How many lines of SLURM's and submitit's output are shown for a start without a log."""
UNREPORTED = "ended without reporting: its node was lost, or its processes were killed at once"
_FORGOTTEN = {
    "gone": "SLURM has forgotten it, and it never started: cancelled while it waited (scancel)? Submit it again",
    "lost": "SLURM has forgotten it, and nothing records how it ended: submit it again to resume from its newest "
    "checkpoint",
}
_GONE_HERE = (
    "its process has ended, and nothing records how: submit it again to resume from its newest checkpoint"
)
"""The same of a job on this machine."""
_NOT_BACK_HERE = "it has not been started again: submit it again to resume from its newest checkpoint"
NOT_BACK = "SLURM has not started it again: submit it again to resume from its newest checkpoint"
STALE_S = 60.0
"""Seconds without a new status.json after which a running run is reported as silent."""
RUN_FIELDS = ("step", "total_steps", "epoch", "loss", "accuracy", "best_accuracy", "images_per_s", "eta_s")
_BY_ACTION = {"finish": "done", "fail": "failed", "cancel": "cancelled"}
_BY_SCHEDULER = {"COMPLETED": "done", "CANCELLED": "cancelled"}


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """One job. `state`: pending, starting, running, requeued (in the queue again), suspended, stopping, or one
    of FINAL. `lost`: SLURM has forgotten the job, and nothing records how it ended. `gone`: the same, and it never
    started.

    `scheduler` is SLURM's name of the state, FORGOTTEN if SLURM has forgotten the job, or UNREACHABLE if SLURM does
    not answer. The run's figures are None until they are known. `accuracy` is a fraction; times are in seconds;
    `updated_age_s` is the time since the run last wrote its status. `requeues`: why each start but the last ended, and
    whether it led to a requeue or a restart in place (`action`).
    `failure`: the first failure of the last start (node, rank, message, last_lines). `output`: if the last start
    ended before its own log began, the last lines that SLURM and submitit wrote.
    """

    job: str
    name: str
    run_dir: str
    cluster: str
    state: str
    scheduler: str
    reason: str = ""
    nodes: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)
    last_checkpoint: Mapping[str, Any] | None = None
    checkpoint_age_s: float | None = None
    updated_age_s: float | None = None
    starts: int = 0
    requeues: Sequence[Mapping[str, Any]] = ()
    failure: Mapping[str, Any] | None = None
    message: str = ""
    exit_code: int | None = None
    output: Sequence[str] = ()

    @property
    def code(self) -> int:
        """The exit code of an ended job: the one it reported, else 0 if it is done and 1 if not."""
        if self.state == "done":
            return EXIT_DONE
        return self.exit_code or EXIT_ERROR

    @property
    def ended(self) -> bool:
        return self.state in FINAL


def statuses(records: Sequence[Mapping[str, Any]], *, now: float | None = None) -> list[JobStatus]:
    """The status of each job record; asks SLURM once for all of them."""
    ids = [str(one["job"]) for one in records if one["cluster"] == "slurm"]
    problem = ""
    known: dict[str, slurm.JobInfo] = {}
    if ids:
        try:
            folders = {str(one["job"]): Path(one["run_dir"] or one["submission"]) for one in records}
            known = slurm.without_strangers(slurm.jobs(ids), folders)
            known |= slurm.accounting([one for one in ids if one not in known])
        except slurm.SlurmError as error:
            problem = str(error)
    moment = time.time() if now is None else now
    for record in records:
        _keep(record, known.get(str(record["job"])), moment)
    return [
        status_of(record, _local(record) or known.get(str(record["job"])), problem, moment)
        for record in records
    ]


def folder_status(run_dir: Path, *, now: float | None = None) -> JobStatus:
    """The status of a run that was started without a job, from its status.json."""
    moment = time.time() if now is None else now
    run = read_json(run_dir / "status.json") or {}
    age = moment - float(run["updated"]) if run.get("updated") else None
    state, message = str(run.get("state") or "unknown"), str(run.get("message") or "")
    if state not in FINAL and age is not None and age > STALE_S:
        state, message = "lost", f"silent for {age:.0f} s: no heartbeat from process 0"
    checkpoint = run.get("last_checkpoint")
    return JobStatus(
        job="-",
        name=run_dir.resolve().name,
        run_dir=str(run_dir),
        cluster="none",
        state=state,
        scheduler="NONE",
        run={name: run.get(name) for name in RUN_FIELDS},
        last_checkpoint=checkpoint,
        checkpoint_age_s=moment - float(checkpoint["time"])
        if checkpoint and checkpoint.get("time")
        else None,
        updated_age_s=age,
        message=message,
    )


def status_of(record: Mapping[str, Any], info: slurm.JobInfo | None, problem: str, now: float) -> JobStatus:
    """The status of one job. `info` is None if SLURM has forgotten it, or does not answer (`problem`)."""
    log_dir, run_dir = Path(record["log_dir"]), Path(record["run_dir"] or record["submission"])
    history = attempts(log_dir)
    starts = list(read_lines(log_dir / "starts.jsonl"))
    last = history[-1] if history else None
    run = read_json(run_dir / "status.json") or {}
    began = float(starts[-1]["time"]) if starts else now
    # A status.json of an earlier start, or of another job of the same run, does not describe this start.
    current = bool(starts) and float(run.get("started") or 0) >= began
    mine = str(run.get("job")) == str(record["job"])
    decision = last.decision() if last else None
    if last and decision:
        decision = {**decision, "reason": _ending(last, record)["reason"]}
    scheduler = "UNREACHABLE" if problem else info.state if info else "FORGOTTEN"
    if info is None and not problem:
        info = _last_seen(record, began if starts else 0.0)
    state = _state(info, problem, decision, run if mine else {}, current, bool(history))
    if state == "lost" and (log_dir / "cancel.json").exists():
        state = "cancelled"  # before it began, so it could not record that itself
    elif state == "lost" and record["cluster"] == "slurm" and not history and not task_log(record).strip():
        state = "gone"
    updated_age = now - float(run["updated"]) if mine and run.get("updated") else None
    message = "" if state in FINAL else problem or str(run.get("message", "") if mine else "")
    if state == "running" and updated_age is not None and updated_age > STALE_S:
        message = f"silent for {updated_age:.0f} s: no heartbeat from process 0"
    if not mine and (starts or state in FINAL):
        run = {}  # of another job of the same run; shown only until this one starts, which resumes from there
    checkpoint = run.get("last_checkpoint")
    failure = first_failure(last.outcomes() or last.failures()) if last and state != "done" else None
    return JobStatus(
        job=str(record["job"]),
        name=str(record["name"]),
        run_dir=str(run_dir),
        cluster=str(record["cluster"]),
        state=state,
        scheduler=scheduler,
        reason=_reason(info, decision, state, slurm_job=record["cluster"] == "slurm"),
        nodes=info.nodes if info else "",
        run={name: run.get(name) for name in RUN_FIELDS},
        last_checkpoint=checkpoint,
        checkpoint_age_s=now - float(checkpoint["time"]) if checkpoint and checkpoint.get("time") else None,
        updated_age_s=updated_age,
        starts=len(starts),
        requeues=[_ending(attempt, record) for attempt in (history if state == "requeued" else history[:-1])],
        failure=None
        if failure is None
        else {
            "node": failure.name,
            "rank": failure.rank,
            "kind": failure.kind,
            "message": failure.message,
            "last_lines": list(failure.last_lines),
        },
        message=message,
        output=_output(record, last, state),
        exit_code=int(decision["code"])
        if decision and decision["action"] != "restart" and state in FINAL
        else None,
    )


def _state(
    info: slurm.JobInfo | None,
    problem: str,
    decision: Mapping[str, Any] | None,
    run: Mapping[str, Any],
    current: bool,
    started: bool,
) -> str:
    decided = _BY_ACTION.get(str(decision["action"])) if decision else None
    own = str(run.get("state", ""))
    if info is not None and info.state not in slurm.ENDED:
        if info.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
            return "requeued" if started else "pending"
        if info.state in ("SUSPENDED", "STOPPED"):
            return "suspended"
        if info.state in ("COMPLETING", "STAGE_OUT") or (decision and decision["action"] != "restart"):
            return decided or "stopping"
        return (
            own if current and own in ("starting", "running") else "starting" if not current else "stopping"
        )
    if decided:
        return decided
    if info is not None:
        saved = decision is not None and str(decision["reason"]).startswith(SAVED)
        return _BY_SCHEDULER.get(info.state, "stopped" if saved else "failed")
    if own in FINAL and current:
        return own
    if problem:
        return own if current and own else "unknown"
    return "lost"


def _reason(
    info: slurm.JobInfo | None, decision: Mapping[str, Any] | None, state: str, *, slurm_job: bool
) -> str:
    if state in ("pending", "requeued") and info is not None and info.reason:
        return info.reason
    if decision and state in FINAL:
        reason = "" if decision["reason"] == state else str(decision["reason"])
        back = decision["action"] == "requeue" and state not in ("done", "cancelled")
        return f"{reason}; {NOT_BACK if slurm_job else _NOT_BACK_HERE}" if back else reason
    if state in _FORGOTTEN:
        return _FORGOTTEN[state] if slurm_job else _GONE_HERE
    if info is not None and info.state in slurm.ENDED and state not in ("done", "cancelled"):
        word = info.state.lower().replace("_", " ")
        return (
            word if word != state else "it ended before dydist could report; what was printed last says more"
        )
    return ""


def _output(record: Mapping[str, Any], last: Attempt | None, state: str) -> Sequence[str]:
    """The last lines that SLURM and submitit wrote, if a job failed and its newest start reported nothing."""
    # A decision without `decided_by` is the batch script's, which only knows an exit code.
    told = last is not None and (
        (last.decision() or {}).get("decided_by") or last.outcomes() or last.failures()
    )
    if told or state not in ("failed", "lost", "requeued"):
        return ()
    return [line for line in task_log(record).splitlines() if line.strip()][-OUTPUT_LINES:]


def _ending(attempt: Attempt, record: Mapping[str, Any]) -> dict[str, Any]:
    """Why a start ended: its own decision, or SLURM's message."""
    decision = attempt.decision()
    number = int(attempt.folder.name.rpartition("-")[2])
    found = {name: (decision or {}).get(name) for name in ("action", "reason", "time", "saved_step")}
    # A node that did not report may be lost, unless SLURM gives another reason (preemption, memory).
    if decision is None or str(decision["reason"]).endswith(SILENT):
        words = scheduler_words(record, number, decided=decision is not None)
        silent = lost(attempt.unheard()) if not words or "node fail" in words.lower() else ""
        found["reason"] = silent or words or found["reason"] or UNREPORTED
    return {"start": number, **found}


def _keep(record: Mapping[str, Any], info: slurm.JobInfo | None, now: float) -> None:
    """Record the final state that SLURM reports, because SLURM forgets it. Writes only to this user's own folders."""
    folder = Path(record["run_dir"] or record["submission"])
    file = Path(record["log_dir"]) / ENDED
    if info is None or info.state not in slurm.ENDED or (read_json(file) or {}).get("state") == info.state:
        return
    with suppress(OSError):
        if folder.stat().st_uid == os.geteuid():
            write_json(file, {"state": info.state, "nodes": info.nodes, "time": now})


def _last_seen(record: Mapping[str, Any], began: float) -> slurm.JobInfo | None:
    """The state that `_keep` has recorded since the newest start began, for a job that SLURM has forgotten."""
    seen = read_json(Path(record["log_dir"]) / ENDED)
    if seen is None or float(seen["time"]) < began:
        return None
    return slurm.JobInfo(job=str(record["job"]), state=str(seen["state"]), nodes=str(seen["nodes"]))


def _local(record: Mapping[str, Any]) -> slurm.JobInfo | None:
    """A job of submitit's local executor. Its id is that of the controlling process."""
    if record["cluster"] != "local":
        return None
    import psutil

    job = str(record["job"])
    try:
        process = psutil.Process(int(job))
        lives = process.status() != psutil.STATUS_ZOMBIE and "submitit.local._local" in process.cmdline()
    except psutil.NoSuchProcess:
        lives = False
    return slurm.JobInfo(job=job, state="RUNNING", nodes="localhost") if lives else None
