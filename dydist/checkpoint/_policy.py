"""Decisions that every process must take alike: which saves go on, and which checkpoints are kept. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dydist.checkpoint._catalog import Found

WAITING = ("queued", "staged")
ACTIVE = ("writing", "uploading")
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Status:
    """What one process tells the others at a step boundary, before a save.

    `token`: a fresh random name, process 0's is taken for the new attempt. `phases`: attempt → phase of the saves it
    remembers. `same_step`: the attempt that saves this very step already, where it has not failed. `memory`: whether
    there is host memory for one more copy. `lost`: which place was taken over, and by whom. `problems`: what went
    wrong since the last save.
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
    """What all processes do: give up the saves `cancel`, and start `attempt`, unless the step is saved by the attempt
    `reuse` already or `skip` says why not."""

    attempt: str
    cancel: frozenset[str]
    reuse: str | None = None
    skip: str | None = None
    lost: tuple[str, str] | None = None


def decide(statuses: Sequence[Status], *, final: bool) -> Decision:
    """At most one save in flight and one waiting: the new one replaces each that still waits on some process.

    A pure function of what all processes gathered, so all decide alike. A save that waits anywhere cannot have been
    committed, as the commit needs every process's share, so nothing committed is ever given up; and one that is in
    flight wherever it has not ended is left alone, so that a slow store still gets a checkpoint now and then. The
    last save of a run is not kept waiting by others: they are all given up for it.
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
    found: Iterable[Found],
    *,
    verified: int,
    keep: int,
    keep_every_steps: int | None = None,
    keep_best: bool = True,
) -> list[str]:
    """Folders of checkpoints that need not be kept, given that step `verified` was just read back whole.

    Kept: the newest `keep`, every multiple of `keep_every_steps`, the one with the best accuracy (the newer of
    equals), the verified one and everything newer than it. Those set aside go once the run has passed them.
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
    """The shares that a process writes for its node's own complete copy: its own, and some of other nodes'.

    `node`: ranks of the processes on this node.
    """
    own = set(node)
    return [
        share for share in range(world_size) if (share if share in own else node[share % len(node)]) == rank
    ]
