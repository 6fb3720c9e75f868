"""Decisions on which all processes must agree: which saves continue, which checkpoints are kept. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dydist.checkpoint._catalog import CheckpointFolder

WAITING = ("queued", "staged")
ACTIVE = ("writing", "uploading")
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Status:
    """What one process sends to the others at a step boundary, before a save.

    `token`: a new random name; process 0's becomes the new attempt. `phases`: attempt → phase of its recent saves.
    `same_step`: the attempt that already saves this step and has not failed. `memory`: whether there is host memory
    for another copy. `lost`: the lease that was lost, and its new holder. `problems`: failures since the last save.
    """

    rank: int
    token: str
    phases: Mapping[str, str] = field(default_factory=dict)
    same_step: str | None = None
    memory: bool = True
    lost: tuple[str, str] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What all processes do: cancel the saves `cancel` and start `attempt`, unless attempt `reuse` already saves this
    step or `skip` gives a reason not to."""

    attempt: str
    cancel: frozenset[str]
    reuse: str | None = None
    skip: str | None = None
    lost: tuple[str, str] | None = None


def decide(statuses: Sequence[Status], *, final: bool) -> Decision:
    """Allow one save in flight and one waiting: the new save replaces those that still wait on some process.

    A pure function of the gathered statuses, so all processes decide the same. A save that waits on any process cannot
    have been committed, since a commit needs every process's share; so no committed save is cancelled. A save in
    flight on every process where it has not ended is not cancelled, so that a slow store still receives checkpoints.
    A final save cancels all others.
    """
    by_attempt: dict[str, set[str]] = {}
    for status in statuses:
        for attempt, phase in status.phases.items():
            by_attempt.setdefault(attempt, set()).add(phase)
    reuse = statuses[0].same_step if all(s.same_step == statuses[0].same_step for s in statuses) else None
    cancel = frozenset(
        attempt
        for attempt, phases in by_attempt.items()
        if attempt != reuse and (phases.intersection(WAITING) or (final and phases.intersection(ACTIVE)))
    )
    lost = next((status.lost for status in statuses if status.lost), None)
    full = [status.rank for status in statuses if not status.memory]
    skip = None
    if full and not final and reuse is None:
        skip = f"process {', '.join(map(str, full[:8]))} still writes the saves before it"
    return Decision(attempt=statuses[0].token, cancel=cancel, reuse=reuse, skip=skip, lost=lost)


def superseded(
    found: Iterable[CheckpointFolder],
    *,
    verified: int,
    keep: int,
    keep_every_steps: int | None = None,
    keep_best: bool = True,
) -> list[str]:
    """Folders of checkpoints that can be removed, given that step `verified` was just verified.

    Kept: the newest `keep`, every multiple of `keep_every_steps`, the one with the best accuracy (the newest of
    equals), the verified one and everything newer. Checkpoints that were set aside are removed once the run has
    passed their step.
    """
    found = list(found)
    intact = sorted((f for f in found if f.problem is None and not f.set_aside), key=lambda f: -f.step)
    kept = {f.step for f in intact[:keep]} | {f.step for f in intact if f.step >= verified}
    if keep_every_steps:
        kept |= {f.step for f in intact if f.step % keep_every_steps == 0}
    rated = [f for f in intact if f.manifest is not None and f.manifest.accuracy is not None]
    if keep_best and rated:
        kept.add(max(rated, key=lambda f: (f.manifest.accuracy, f.step)).step)  # type: ignore[union-attr]
    passed = [f.folder for f in found if f.set_aside and f.problem is None and f.step < verified]
    return [f.folder for f in intact if f.step not in kept] + passed


def shares_on_node(rank: int, node: Sequence[int], world_size: int) -> list[int]:
    """The shares that a process writes to its node's stage, so that it is complete: its own and some of others.

    `node`: ranks of the processes on this node.
    """
    own = set(node)
    return [
        share for share in range(world_size) if (share if share in own else node[share % len(node)]) == rank
    ]
