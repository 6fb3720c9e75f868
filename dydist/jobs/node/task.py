"""The task that SLURM runs on each node: launches and watches training, and decides with other nodes what follows.

submitit calls `NodeTask` in one task per node. It forwards the scheduler's warnings to the training processes, and
ends all of them soon after one has failed. Once all have exited, one node decides: all start again, or the job
finishes, is requeued, or fails.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from dydist.errors import EXIT_DONE, EXIT_STOPPED, UserError
from dydist.jobs.attempt import Attempt, Outcome, attempts, claim_start, own_log_dir
from dydist.jobs.launch import NodeLog
from dydist.jobs.node.conclude import conclude, remember_lost_nodes, remember_start, stalled_starts
from dydist.jobs.node.context import NodeContext, NodePlace, StopSignals
from dydist.jobs.node.preflight import judge_probes, preflight
from dydist.jobs.node.supervise import run
from dydist.jobs.node.watch import wait_for_ends
from dydist.jobs.spec import JobSpec
from dydist.text.redaction import register_environment


class NodeTask:
    """The callable that submitit pickles: it only contains plain values, so that the snapshot's code runs."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    def __call__(self) -> None:
        register_environment(os.environ)
        code = run_node(self.spec, NodePlace.from_environment(), StopSignals())
        if code != EXIT_DONE:
            raise SystemExit(code)

    def checkpoint(self) -> None:
        """Called by submitit for a warning before dydist's handlers are installed: nothing to save, so requeue."""
        raise SystemExit(EXIT_STOPPED)


def run_node(spec: JobSpec, place: NodePlace, signals: StopSignals) -> int:
    """Run the starts of one allocation on one node; returns the task's exit code."""
    log_dir = Path(spec.log_dir.replace("{job}", place.job))
    own_log_dir(log_dir, str(Path(spec.code).parent), place.start)
    for restarts in itertools.count():
        number = claim_start(log_dir, f"{place.start}{f'-{restarts}' * (restarts > 0)}", place.names)
        attempt = Attempt(log_dir / f"attempt-{number:03d}")
        with closing(NodeLog(attempt.log(place.node), place.node, sys.stdout)) as log:
            code = _run_start(
                NodeContext(
                    spec=spec,
                    place=place,
                    log_dir=log_dir,
                    number=number,
                    attempt=attempt,
                    signals=signals,
                    log=log,
                )
            )
        if code is not None:
            return code
    raise AssertionError("unreachable")


def _run_start(context: NodeContext) -> int | None:
    """Run one start; returns the task's exit code, or None to start again."""
    place, log, number = context.place, context.log, context.number
    log.write(f"start {number} of job {place.job} on node {place.name} ({place.node + 1} of {place.nodes})")
    if found := kill_leftovers(context.log_dir, place.name, number):
        log.write(f"killed processes of an earlier start: {found}")
    if place.node == 0:
        remember_start(context)
        remember_lost_nodes(context)
    outcome = _checked_run(context)
    context.attempt.write_outcome(outcome)
    log.write(f"its processes: {outcome.kind} at step {outcome.step}. {outcome.message}".strip())
    return conclude(context)


def _checked_run(context: NodeContext) -> Outcome:
    """Run the preflight, then training."""
    spec, place, attempt = context.spec, context.place, context.attempt
    ended = Outcome(node=place.node, name=place.name, kind="done", time=time.time())
    if context.cancelled:
        return replace(ended, kind="stopped", message="cancelled before it started")
    if place.node == 0 and (count := stalled_starts(context)) >= spec.max_stalled:
        failure = replace(ended, kind="launch", message=_gave_up(context, count))
        attempt.write_failure(failure)
        return failure
    try:
        bad = preflight(context)
        turn = 0
        if not bad and spec.preflight == "full" and not context.signals.warning:
            probe = replace(
                spec, program=str(Path(spec.code) / "dydist" / "jobs" / "node" / "probe.py"), arguments=()
            )
            outcome, turn = run(context, probe, turn)
            if outcome.kind != "done":
                return outcome
            bad = judge_probes(context, attempt.exit_dir(turn))
            turn += 1
        if bad:
            return replace(ended, kind="preflight", time=time.time(), message=bad)
        return run(context, spec, turn)[0] if spec.program else ended
    except UserError as error:
        failure = replace(ended, kind="usage", time=time.time(), message=str(error))
    except Exception as error:
        failure = replace(ended, kind="launch", time=time.time(), message=f"{type(error).__name__}: {error}")
    attempt.write_failure(failure)
    return failure


def _gave_up(context: NodeContext, count: int) -> str:
    """Why a job is not started again after starts that made no decision, with the last known reason."""
    text = f"gave up after {count} starts in a row that saved nothing new and were killed before they could report"
    known = [
        decision
        for one in attempts(context.log_dir)
        if one.outcomes() and (decision := one.decision())  # a decision alone is not the start's own
    ]
    return f"{text}; the last that did report: {known[-1]['reason']}" if known else text


def kill_leftovers(log_dir: Path, node: str, attempt: int) -> Sequence[int]:
    """SIGKILL processes of earlier starts of this job that survived their node's task; returns their ids.

    They are identified by the folder of their start, since another cluster may use the same job number.
    """
    import psutil

    found: list[int] = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
            start = Path(env.get("DYDIST_EXIT_DIR", "")).parent
            if (
                start.parent == log_dir
                and env.get("DYDIST_NODE") == node
                and int(env["DYDIST_ATTEMPT"]) < attempt
            ):
                process.kill()
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    wait_for_ends(found)
    return found
