"""Decides what a job does when its processes have ended: a pure function of outcomes and saved steps.

One case is decided elsewhere: `batch_script.py` decides if no node could.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

from dydist.errors import EXIT_DONE, EXIT_ERROR, EXIT_STOPPED, EXIT_USAGE
from dydist.jobs.attempt import Kind, Outcome, first_failure

SAVED = "stopped and saved"
"""The first words of the reason if a start was asked to stop."""
SILENT = "it has not reported (lost?)"
Action = Literal["finish", "restart", "requeue", "cancel", "fail"]
LEAVE_AFTER = 2
"""Stalled starts in a row after which a failure is no longer mended by a restart on the same nodes."""
RESTARTED: tuple[Kind, ...] = ("frozen", "killed", "hung", "port_taken", "torn")
"""What a restart on the same nodes may mend. An exception may have its cause in a node or a server: it is requeued."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`reason`: a phrase for status and history; `code`: the exit code of every node's task."""

    action: Action
    code: int
    reason: str


def stalled(saved: Sequence[int], least: int = 1) -> int:
    """The number of most recent starts in a row that saved fewer than `least` new steps.

    `saved`: the step of the newest checkpoint at each start, oldest first, and the present one last.
    """
    count = 0
    for before, after in pairwise(saved):
        count = 0 if after - before >= least else count + 1
    return count


def decide(
    outcomes: Sequence[Outcome],
    *,
    nodes: Sequence[str],
    saved: Sequence[int],
    max_stalled: int,
    cancelled: bool,
    warning: str | None,
    total_steps: int = 0,
    may_restart: bool = False,
    allocations: Sequence[int] | None = None,
) -> Decision:
    """Decide to finish, restart, requeue, cancel or fail. `nodes`: their names.

    A finished run and a user's mistake end the job. A requested stop (`warning`: its cause) requeues it, or ends it
    after `dydist cancel`. A transient failure (a killed, hung or crashed process, a lost node) requeues it, but after
    `max_stalled` stalled starts in a row it fails. An exception in training before a new checkpoint fails at once,
    since it would recur. A start that ended at its time limit counts as stalled if it saved less than a thousandth of
    `total_steps`.

    With `may_restart`, killed and hung processes start again on the same nodes, without a requeue, if every node has
    reported and none has a process that did not end. The second of two stalled starts in a row requeues: other nodes
    may help. `allocations`: as `saved`, without the starts that were restarts; by default `saved`.
    """
    heard = {one.node for one in outcomes}
    silent = [
        Outcome(node=node, name=name, kind="lost", time=float("inf"), message=SILENT)
        for node, name in enumerate(nodes)
        if node not in heard
    ]
    cause = first_failure([*outcomes, *silent])
    if cause is not None and cause.kind == "usage":
        return Decision(action="fail", code=EXIT_USAGE, reason=cause.message)
    if cause is None and all(one.kind == "done" for one in outcomes):
        return Decision(action="finish", code=EXIT_DONE, reason="done")
    if cancelled:
        return Decision(action="cancel", code=EXIT_STOPPED, reason="cancelled by dydist cancel")
    reason = describe(cause) if cause else f"{SAVED}: {warning or 'a process was asked to stop'}"
    least = ceil(total_steps / 1000) if cause is None and (warning or "").startswith("time limit") else 1
    count = stalled(saved) if least <= 1 else stalled(saved if allocations is None else allocations, least)
    if cause is not None and cause.kind in ("error", "launch") and count > 0:
        return Decision(action="fail", code=EXIT_ERROR, reason=reason)
    if count >= max_stalled:
        few = (
            "nothing new"
            if least <= 1
            else f"fewer than {least} steps each: give the job more time, or lower warning_s"
        )
        reason = f"gave up after {count} starts in a row that saved {few}; the last one: {reason}"
        return Decision(action="fail", code=EXIT_ERROR, reason=reason)
    mendable = cause is not None and cause.kind in RESTARTED and all(one.gone for one in outcomes)
    if (
        may_restart
        and mendable
        and not silent
        and warning is None
        and count < min(LEAVE_AFTER, max_stalled - 1)
    ):
        return Decision(action="restart", code=EXIT_STOPPED, reason=reason)
    return Decision(action="requeue", code=EXIT_STOPPED, reason=reason)


def lost(names: Sequence[str]) -> str:
    """The reason of a start that lost the nodes of these names."""
    return "; ".join(f"node {name}: {SILENT}" for name in names)


def describe(cause: Outcome) -> str:
    """The rank, node and message of a failure."""
    if cause.kind == "preflight":  # every node reports the same, about all nodes
        return cause.message
    rank = "" if cause.rank is None else f"rank {cause.rank} on "
    return f"{rank}node {cause.name}: {cause.message or cause.kind}"
