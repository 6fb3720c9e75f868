"""The end of a start: one node decides for all; the batch script then requeues or cancels the job."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dydist.errors import EXIT_STOPPED
from dydist.jobs import slurm
from dydist.jobs.attempt import Attempt, first_failure
from dydist.jobs.decide import Decision, decide, lost, stalled
from dydist.jobs.files import append_json, read_json, read_lines, replace_text
from dydist.jobs.node.context import NodeContext, NodePlace
from dydist.jobs.spec import JobSpec

POLL_S = 0.25
SILENT_NODE_S = 20.0
"""Seconds for which a node that has ended waits for the reports of the others."""
SUCCESSOR_S = 10.0
"""Seconds by which each further node decides later, in case the first ones are lost."""
RESTART_S = 10.0
"""Seconds that a restart takes besides the processes' own start."""
LOCAL_REQUEUE = 144
"""Exit code of a task that makes submitit's local executor restart it."""


def remember_start(context: NodeContext) -> None:
    """Add this start, and its newest checkpoint, to the job's history."""
    line = {
        "attempt": context.number,
        "start": context.place.start,
        "saved_step": saved_step(context.spec),
        "time": time.time(),
    }
    append_json(context.log_dir / "starts.jsonl", line)
    (context.log_dir / "unreported").unlink(missing_ok=True)  # from now on, the history counts starts


def remember_lost_nodes(context: NodeContext) -> None:
    """If no node could decide how the last start ended, record which of its nodes are down according to SLURM.

    SLURM itself requeues a job whose node is lost, and kills the tasks of the other nodes.
    """
    last = Attempt(context.log_dir / f"attempt-{context.number - 1:03d}")
    if context.place.scheduler != "slurm" or not last.nodes or last.decision():
        return
    try:
        down = slurm.down(last.unheard() or last.nodes)
    except slurm.SlurmError:
        return
    if down:
        last.decide(_record(context, Decision(action="requeue", code=EXIT_STOPPED, reason=lost(down))))


def stalled_starts(context: NodeContext) -> int:
    """The number of stalled starts in a row up to the previous one.

    Starts whose tasks were killed made no decision, so the next start must count them.
    """
    return stalled([int(line["saved_step"]) for line in read_lines(context.log_dir / "starts.jsonl")])


def saved_step(spec: JobSpec) -> int:
    """The step of the newest checkpoint, by the run's status; 0 if there is none."""
    last = run_status(spec).get("last_checkpoint") or {}
    return int(last["step"]) if last.get("step") and not last.get("error") else 0


def run_status(spec: JobSpec) -> dict[str, Any]:
    """The run's status.json; empty if there is none."""
    return (read_json(Path(spec.run_dir) / "status.json") if spec.run_dir else None) or {}


def conclude(context: NodeContext) -> int | None:
    """Make the decision, or wait for it, and pass it to the batch script; returns the task's exit code.

    None: all nodes start again, without the batch script.
    """
    place, attempt = context.place, context.attempt
    began = time.monotonic()
    while (content := attempt.decision()) is None:
        complete = len(attempt.outcomes()) == place.nodes
        patience = SUCCESSOR_S * place.node + (0 if complete else SILENT_NODE_S)
        if time.monotonic() - began >= patience:
            decision = _decide(context)
            content = _record(context, decision)
            if attempt.decide(content):
                context.log.write(f"{decision.action}: {decision.reason}")
                break
        time.sleep(POLL_S)
    if content["action"] == "restart":
        return None
    if place.scheduler != "slurm":
        return LOCAL_REQUEUE if content["action"] == "requeue" else int(content["code"])
    _tell_batch_script(context, content)
    return int(content["code"])


def _record(context: NodeContext, decision: Decision) -> dict[str, Any]:
    """A decision of this node as it is written down."""
    return {
        "action": decision.action,
        "code": decision.code,
        "reason": decision.reason,
        "time": time.time(),
        "saved_step": saved_step(context.spec),
        "decided_by": context.place.name,
    }


def _tell_batch_script(context: NodeContext, content: Mapping[str, Any]) -> None:
    """Every node writes the verdict: one of them runs on the batch script's node, which then sees it at once."""
    bad = _bad_nodes(context.attempt) if content["action"] == "requeue" else []
    line = f"{context.place.start} {content['action']} {content['code']} {','.join(bad)}\n"
    replace_text(context.log_dir / "verdict", line)


def _decide(context: NodeContext) -> Decision:
    starts = list(read_lines(context.log_dir / "starts.jsonl"))
    now = saved_step(context.spec)
    names = [line.get("start", number) for number, line in enumerate(starts)]
    firsts = [number for number, name in enumerate(names) if not number or name != names[number - 1]]
    decided = partial(
        decide,
        context.attempt.outcomes(),
        nodes=context.place.names,
        saved=[*(int(line["saved_step"]) for line in starts), now],
        max_stalled=context.spec.max_stalled,
        cancelled=context.cancelled,
        warning=explain(context.place, context.signals.warning),
        total_steps=int(run_status(context.spec).get("total_steps") or 0),
        allocations=[*(int(starts[number]["saved_step"]) for number in firsts), now],
    )
    decision = decided(may_restart=bool(context.spec.restart_in_place and context.spec.program))
    return decided() if decision.action == "restart" and not _has_time(context) else decision


def _has_time(context: NodeContext) -> bool:
    """Whether the allocation lasts long enough for another start, some steps, and a save at the warning."""
    until = slurm.end_time(context.place.job) if context.place.scheduler == "slurm" else None
    if until is None:
        return True
    start_s = max((one.start_s or 0.0 for one in context.attempt.outcomes()), default=0.0)
    return until - time.time() > context.spec.warning_s + 2 * start_s + RESTART_S


def explain(place: NodePlace, warning: str | None) -> str | None:
    """The meaning of a signal: time limit, preemption, or its name."""
    if warning is None or place.scheduler != "slurm":
        return warning
    try:
        job = slurm.show(place.job, tries=1)
    except slurm.SlurmError:
        return warning
    if job.get("PreemptTime", "None") not in ("None", ""):
        return f"preempted ({warning})"
    if _seconds(job.get("TimeLimit", "")) - _seconds(job.get("RunTime", "")) < 180:
        return f"time limit ({warning})"
    return warning


def _bad_nodes(attempt: Attempt) -> list[str]:
    cause = first_failure(attempt.outcomes())
    verdict = read_json(attempt.folder / "preflight.json") or {}
    return sorted(verdict.get("bad", {})) if cause is not None and cause.kind == "preflight" else []


def _seconds(text: str) -> float:
    """`1-02:03:04`, `02:03:04` or `03:04` in seconds; infinity for anything else (UNLIMITED)."""
    days, _, clock = text.rpartition("-")
    try:
        total = 0.0
        for part in clock.split(":"):
            total = total * 60 + int(part)
        return total + 86400 * int(days or 0)
    except ValueError:
        return float("inf")
