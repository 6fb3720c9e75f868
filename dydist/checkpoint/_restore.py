"""Lists the checkpoints to resume from, and reads the newest one that is valid on every process.

Damaged checkpoints are skipped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dydist.checkpoint._agreement import Agreement
from dydist.checkpoint._catalog import CheckpointFolder, inspect, load, survey
from dydist.checkpoint._claim import StoredRun
from dydist.checkpoint._copy import copy_checkpoint
from dydist.checkpoint._format import aside_file, encode_json
from dydist.checkpoint._stage import staged
from dydist.errors import CheckpointError, DamagedError, UserError
from dydist.storage.local import LocalStorage
from dydist.storage.names import step_of
from dydist.storage.protocol import Storage
from dydist.text.redaction import scrub

if TYPE_CHECKING:
    from dydist.checkpoint._tensors import TrainingState

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint to resume from: in the store, or only on the stages of the processes `holders`."""

    found: CheckpointFolder
    remote: bool
    holders: tuple[int, ...]


def candidates(agreement: Agreement, store: Storage, stage: LocalStorage | None) -> list[Candidate]:
    """All checkpoints from which a start can choose, newest first; the same on all processes."""
    remote: list[CheckpointFolder] = agreement.on_rank0(lambda: survey(store))
    local: list[list[CheckpointFolder]] = agreement.gather(staged(stage)) if stage is not None else []
    result = [Candidate(found=found, remote=True, holders=_holders(found, local)) for found in remote]
    known = {
        found.manifest.attempt for found in remote if found.manifest is not None and found.problem is None
    }
    for found in (found for node in local for found in node):
        assert found.manifest is not None
        if found.manifest.attempt not in known:
            known.add(found.manifest.attempt)
            result.append(Candidate(found=found, remote=False, holders=_holders(found, local)))
    return sorted(result, key=lambda c: (-c.found.step, not c.remote))


def stored_run(store: Storage, stage: LocalStorage | None, options: list[Candidate]) -> StoredRun:
    """The stored run, as far as process 0 finds it in the store and on its stage."""
    run = None
    for option in options:
        where = store if option.remote else stage if 0 in option.holders else None
        if where is None or option.found.problem is not None:
            continue
        with contextlib.suppress(DamagedError):
            run = load(where, option.found, kinds=()).extra.get("run")
            break
    return StoredRun(steps=tuple(option.found.step for option in options), run=run)


def _holders(found: CheckpointFolder, local: list[list[CheckpointFolder]]) -> tuple[int, ...]:
    if found.manifest is None:
        return ()
    attempt = found.manifest.attempt
    return tuple(
        rank
        for rank, node in enumerate(local)
        if any(f.manifest and f.manifest.attempt == attempt for f in node)
    )


def newest_valid(
    agreement: Agreement,
    store: Storage,
    stage: LocalStorage | None,
    options: list[Candidate],
    world_size: int,
) -> tuple[TrainingState, Candidate] | None:
    """Read the newest checkpoint that is valid on every process; report those that are skipped."""
    for option in options:
        found = option.found
        if found.problem is not None:
            agreement.note(f"{found.folder} is skipped: {found.problem}", level="warning")
            continue
        everywhere = stage is not None and len(option.holders) == world_size
        if everywhere:
            assert stage is not None
            state, problem = agreement.all_succeed(lambda found=found: load(stage, found))  # type: ignore[misc]
            if problem is None and state is not None:
                return state, option
            agreement.note(f"{found.folder} on the local stage is skipped: {problem}", level="warning")
        if not option.remote and (everywhere or not _bring(agreement, store, stage, option)):
            continue
        state, problem = agreement.all_succeed(lambda found=found: load(store, found))  # type: ignore[misc]
        if problem is None and state is not None:
            return state, option
        agreement.note(f"{found.folder} is skipped: {problem}", level="warning")
    return None


def _bring(agreement: Agreement, store: Storage, stage: LocalStorage | None, option: Candidate) -> bool:
    """Upload a checkpoint that exists on one node only, so that all processes can read it. Returns success."""
    try:
        agreement.on_rank(option.holders[0], lambda: copy_checkpoint(stage, store, option.found))  # type: ignore[arg-type]
    except CheckpointError as error:
        agreement.note(
            f"{option.found.folder} is on one node only and cannot be uploaded, so it is skipped: {error}",
            level="warning",
        )
        return False
    return True


def set_aside(storage: Storage, found: list[CheckpointFolder], *, why: str) -> None:
    """Mark checkpoints as not to be chosen automatically, because the user resumes from an earlier one."""
    mark = encode_json({"why": why, "at": time.time()})
    for item in found:
        if item.manifest is not None:
            storage.write(f"{item.folder}/{aside_file(item.manifest.attempt)}", lambda: [mark])


def undo_set_aside(storage: Storage, found: list[CheckpointFolder]) -> None:
    """Remove the marks of checkpoints that were set aside."""
    for item in found:
        if item.manifest is not None and item.set_aside:
            storage.delete(f"{item.folder}/{aside_file(item.manifest.attempt)}")


def find_source(
    storage_at: Callable[[str], Storage], url: str, *, field: str = "checkpoint.resume"
) -> tuple[str, list[CheckpointFolder]]:
    """The store that a URL names, and its valid checkpoints, newest first.

    If the URL names the folder of one step, only that checkpoint is returned. Raises UserError if there is none; the
    message names `field`.
    """
    parent, _, last = url.rstrip("/").rpartition("/")
    if step_of(last) is not None:
        store, found = parent, [inspect(storage_at(parent), last)]
    else:
        store, found = url, survey(storage_at(url))
    if not any(item.problem is None for item in found):
        why = f"; {found[0].folder}: {found[0].problem}" if found else ""
        raise UserError(
            f"{field}: no valid checkpoint at {scrub(url)}{why}; give a store or a step's folder, such as "
            f"{scrub(url.rstrip('/'))}/step-000001234; `dydist checkpoint list {scrub(parent or url)}` shows them"
        )
    return store, [item for item in found if item.problem is None]


def load_weights(storage: Storage, found: list[CheckpointFolder]) -> TrainingState:
    """The weights of the newest valid checkpoint, as the state of a run at step 0.

    Raises DamagedError if none is valid.
    """
    from dydist.checkpoint._tensors import TrainingState

    problem: DamagedError | None = None
    for item in found:
        try:
            state = load(storage, item, kinds=("model",))
        except DamagedError as error:
            problem = error
        else:
            origin = {"weights_from": f"{storage.url}/{item.folder}", "source": dict(state.extra)}
            return TrainingState(step=0, model=state.model, extra=origin)
    assert problem is not None, "find_source returns at least one"
    raise problem
