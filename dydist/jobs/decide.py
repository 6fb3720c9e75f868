"""What a job does when its processes have ended: a pure function of how, and of what earlier starts saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dydist.errors import EXIT_DONE, EXIT_ERROR, EXIT_STOPPED, EXIT_USAGE
from dydist.jobs.attempt import Outcome, first_failure

Action = Literal["finish", "requeue", "cancel", "fail"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`reason` in words, for status and history; `code`: the exit code of every node's task."""

    action: Action
    code: int
    reason: str


def stalled(saved: Sequence[int]) -> int:
    """How many of the last starts saved nothing new.

    `saved`: the step of the newest checkpoint when each start began, oldest first, and at last the one of now.
    """
    count = 0
    for before, after in pairwise(saved):
        count = 0 if after > before else count + 1
    return count


def decide(
    outcomes: Sequence[Outcome],
    *,
    nodes: int,
    saved: Sequence[int],
    max_stalled: int,
    cancelled: bool,
    warning: str | None,
) -> Decision:
    """Finish, requeue, cancel or fail.

    Done and user's mistakes end the job. A stop that was asked for (`warning` names by what) requeues it, or, after
    `dydist cancel`, ends it. What may pass (a killed, hung or crashed process, a lost node) requeues it, as long
    as starts save something: after `max_stalled` in a row that saved nothing new it fails, and an exception in
    training with nothing saved since the start fails at once, since it would come again.
    """
    cause = first_failure(list(outcomes))
    missing = nodes - len(outcomes)
    if cause is not None and cause.kind == "usage":
        return Decision(action="fail", code=EXIT_USAGE, reason=cause.message)
    if cancelled:
        return Decision(action="cancel", code=EXIT_STOPPED, reason="cancelled by dydist cancel")
    if cause is None and not missing:
        if all(one.kind == "done" for one in outcomes):
            return Decision(action="finish", code=EXIT_DONE, reason="done")
        reason = f"stopped and saved: {warning or 'a process was asked to stop'}"
    elif cause is None:
        reason = f"{missing} of {nodes} nodes ended without a word (lost?)"
    else:
        reason = describe(cause)
    count = stalled(saved)
    if cause is not None and cause.kind in ("error", "launch") and count > 0:
        return Decision(action="fail", code=EXIT_ERROR, reason=reason)
    if count >= max_stalled:
        reason = f"gave up after {count} starts in a row that saved nothing new; the last one: {reason}"
        return Decision(action="fail", code=EXIT_ERROR, reason=reason)
    return Decision(action="requeue", code=EXIT_STOPPED, reason=reason)


def describe(cause: Outcome) -> str:
    """Which rank, where, what."""
    if cause.kind == "preflight":  # every node tells the same, of all of them
        return cause.message
    rank = "" if cause.rank is None else f"rank {cause.rank} on "
    return f"{rank}node {cause.name}: {cause.message or cause.kind}"
