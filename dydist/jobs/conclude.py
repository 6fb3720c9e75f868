"""The end of a job's start: one node decides for all, and finishes, requeues, cancels or fails the job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from dydist.errors import EXIT_ERROR, UserError
from dydist.jobs import slurm
from dydist.jobs.attempt import Attempt, first_failure
from dydist.jobs.context import NodeContext, NodePlace
from dydist.jobs.decide import Decision, decide, stalled
from dydist.jobs.files import append_json, read_json, read_lines
from dydist.jobs.spec import JobSpec

POLL_S = 0.25
SILENT_NODE_S = 20.0
"""How long a node that has ended waits for the words of the others."""
SUCCESSOR_S = 10.0
"""How much later each further node decides, should the first ones be gone."""
LOCAL_REQUEUE = 144
"""Exit code of a task by which submitit's local executor starts it again."""


def remember_start(context: NodeContext) -> None:
    """Add this start to the job's history: which checkpoint was the newest when it began."""
    line = {"attempt": context.number, "saved_step": saved_step(context.spec), "time": time.time()}
    append_json(context.log_dir / "starts.jsonl", line)


def starts_in_vain(context: NodeContext) -> int:
    """How many of the last starts, up to the one before this, saved nothing new.

    Starts that were killed with their tasks decided nothing, so the next one must count them.
    """
    return stalled([int(line["saved_step"]) for line in read_lines(context.log_dir / "starts.jsonl")])


def saved_step(spec: JobSpec) -> int:
    """The step of the newest checkpoint, by the run's status; 0 where there is none."""
    status = read_json(Path(spec.run_dir) / "status.json") if spec.run_dir else None
    last = (status or {}).get("last_checkpoint") or {}
    return int(last["step"]) if last.get("step") and not last.get("error") else 0


def conclude(context: NodeContext) -> int:
    """Wait for the decision, or make it; returns the task's exit code."""
    place, attempt = context.place, context.attempt
    began = time.monotonic()
    while (content := attempt.decision()) is None:
        complete = len(attempt.outcomes()) == place.nodes
        patience = SUCCESSOR_S * place.node + (0 if complete else SILENT_NODE_S)
        if time.monotonic() - began >= patience:
            decision = _decide(context)
            content = {"action": decision.action, "code": decision.code, "reason": decision.reason}
            content |= {"time": time.time(), "saved_step": saved_step(context.spec), "decided_by": place.name}
            if attempt.decide(content):
                context.log.write(f"{decision.action}: {decision.reason}")
                return _act(context, content)
        time.sleep(POLL_S)
    return _follow(place, content)


def _decide(context: NodeContext) -> Decision:
    steps = [int(line["saved_step"]) for line in read_lines(context.log_dir / "starts.jsonl")]
    return decide(
        context.attempt.outcomes(),
        nodes=context.place.nodes,
        saved=[*steps, saved_step(context.spec)],
        max_stalled=context.spec.max_stalled,
        cancelled=(context.log_dir / "cancel.json").exists(),
        warning=explain(context.place, context.signals.warning),
    )


def exclusion_file(tasks: Path, raw_job: str) -> Path:
    """Where the nodes stand that the batch script shall have excluded when it requeues the job."""
    return tasks / f"exclude-{raw_job}"


def explain(place: NodePlace, warning: str | None) -> str | None:
    """A signal in words: time limit, preemption, or by name."""
    if warning is None or place.scheduler != "slurm":
        return warning
    try:
        job = slurm.show(place.raw_job)
    except slurm.SlurmError:
        return warning
    if job.get("PreemptTime", "None") not in ("None", ""):
        return f"preempted ({warning})"
    if _seconds(job.get("TimeLimit", "")) - _seconds(job.get("RunTime", "")) < 180:
        return f"time limit ({warning})"
    return warning


def _act(context: NodeContext, content: Mapping[str, object]) -> int:
    place, log, action = context.place, context.log, content["action"]
    if place.scheduler != "slurm":
        return LOCAL_REQUEUE if action == "requeue" else int(str(content["code"]))
    try:
        if action == "cancel":
            slurm.cancel(place.raw_job)
        elif action == "requeue":
            job = slurm.show(place.raw_job)
            if (state := job.get("JobState", "gone")) != "RUNNING":
                log.write(f"not requeued: the scheduler has the job as {state}")
                return int(str(content["code"]))
            if job.get("Requeue") == "0":
                log.write("not requeued: its profile says requeue: false; the same submission goes on")
                return int(str(content["code"]))
            if bad := _bad_nodes(context.attempt):
                # SLURM takes this of a waiting job alone, when we are gone: the batch script does it.
                exclusion_file(place.tasks, place.raw_job).write_text(
                    ",".join([*slurm.excluded(job), *bad]), encoding="utf-8"
                )
                return int(str(content["code"]))
            slurm.requeue(place.raw_job)
    except UserError as error:
        log.write(f"{action} failed: {error}; submit it again by hand: it goes on from the newest checkpoint")
        return EXIT_ERROR
    return _follow(place, content)


def _follow(place: NodePlace, content: Mapping[str, object]) -> int:
    """Where the scheduler ends the job, wait for that; else end with the decision's code."""
    if place.scheduler == "slurm" and content["action"] in ("requeue", "cancel"):
        time.sleep(60)
    return int(str(content["code"]))


def _bad_nodes(attempt: Attempt) -> list[str]:
    cause = first_failure(attempt.outcomes())
    verdict = read_json(attempt.folder / "preflight.json") or {}
    return sorted(verdict.get("bad", {})) if cause is not None and cause.kind == "preflight" else []


def _seconds(text: str) -> float:
    """`1-02:03:04`, `02:03:04` or `03:04` in seconds; anything else (UNLIMITED) is for ever."""
    days, _, clock = text.rpartition("-")
    try:
        total = 0.0
        for part in clock.split(":"):
            total = total * 60 + int(part)
        return total + 86400 * int(days or 0)
    except ValueError:
        return float("inf")
