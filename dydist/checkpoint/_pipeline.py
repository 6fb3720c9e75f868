"""The background of saving: one thread writes to the disk, one uploads; neither ever stops the training loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dydist.checkpoint._copy import copy_checkpoint
from dydist.checkpoint._errors import CancelledError
from dydist.checkpoint._housekeeping import remove_attempt
from dydist.checkpoint._policy import ENDED, WAITING
from dydist.checkpoint._retry import Retrying, explain
from dydist.checkpoint._save import Identity, Save, commit, write_part
from dydist.checkpoint._stage import OpenFiles, bound_stage, staged
from dydist.checkpoint._storage import LocalStorage, Storage
from dydist.records import CheckpointRecord

STAGE_WAIT_S = 30.0
"""The other processes of a node get so long to write their shares to its disk."""
LATE_UPLOAD_S = 30.0
"""A staged checkpoint that could not be uploaded is tried again after so long, while nothing else is to do."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a pipeline needs from outside; clocks as in `Lease`."""

    identity: Identity
    node: tuple[int, ...]
    """Ranks of the processes on this node; the first leads."""
    stage_keep: int
    clock: Callable[[], float]
    now: Callable[[], float]
    may_commit: Callable[[], None]
    prune: Callable[[Storage], None]
    on_record: Callable[[CheckpointRecord], None]
    on_note: Callable[[str], None]


class Pipeline:
    """The saves of one process. `place` is where checkpoints go; `stage` the node's own disk, for a remote place."""

    def __init__(self, place: Storage, stage: LocalStorage | None, around: Surroundings) -> None:
        self._place = place
        self._stage = stage
        self._around = around
        self._changed = threading.Condition()
        self._saves: list[Save] = []
        self._problems: list[str] = []
        self._late_at: float | None = None
        self._torn: list[tuple[str, str]] = []
        self._late_cancel = threading.Event()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, args=(self._write,), name="checkpoint-write", daemon=True)
        ]
        if stage is not None:
            self._threads.append(
                threading.Thread(
                    target=self._run, args=(self._upload,), name="checkpoint-upload", daemon=True
                )
            )
        for thread in self._threads:
            thread.start()

    def phases(self) -> dict[str, str]:
        """Attempt → phase, of the saves that have not been forgotten."""
        with self._changed:
            return {save.attempt: save.phase for save in self._saves}

    def latest(self) -> Save | None:
        """The newest save that was not given up and has not failed."""
        with self._changed:
            good = [save for save in self._saves if save.phase not in ("failed", "cancelled")]
        return good[-1] if good else None

    def find(self, attempt: str) -> Save | None:
        """A save by its attempt."""
        with self._changed:
            return next((save for save in self._saves if save.attempt == attempt), None)

    def take_problems(self) -> tuple[str, ...]:
        """What went wrong on this process since the last call."""
        with self._changed:
            problems, self._problems = tuple(self._problems), []
        return problems

    def cancel(self, attempts: frozenset[str]) -> None:
        """Give saves up; those that have ended are left as they are."""
        with self._changed:
            for save in self._saves:
                if save.attempt in attempts and save.phase not in ENDED:
                    save.cancelled.set()
                    if save.phase in WAITING:
                        self._end(save, "cancelled")

    def submit(self, save: Save) -> None:
        """Queue a save."""
        with self._changed:
            ended = [s for s in self._saves if s.phase in ENDED]
            self._saves = [*ended[-4:], *(s for s in self._saves if s.phase not in ENDED), save]
            self._late_cancel.set()
            self._changed.notify_all()

    def upload_late(self) -> None:
        """Upload the newest staged checkpoint by this process alone, as soon as there is nothing else to do."""
        with self._changed:
            self._late_at = self._around.clock()
            self._changed.notify_all()

    def close(self, wait_s: float) -> None:
        """Let what is in flight finish for at most `wait_s`, then stop the threads."""
        with self._changed:
            self._changed.wait_for(lambda: all(s.phase in ENDED for s in self._saves), timeout=wait_s)
            for save in self._saves:
                if save.phase not in ENDED:
                    save.cancelled.set()
            self._late_cancel.set()
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=wait_s)

    def _run(self, work: Callable[[], bool]) -> None:
        while work():
            pass

    def _next(self, waiting: str, active: str, *, late: bool) -> Save | None:
        """The next save to work on; None when closing, or (`late`) when an upload that failed is due again."""
        with self._changed:
            while not self._closing:
                save = next((save for save in self._saves if save.phase == waiting), None)
                if save is not None:
                    save.phase = active
                    return save
                left = None if self._late_at is None or not late else self._late_at - self._around.clock()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
        return None

    def _write(self) -> bool:
        """Write one save to the place, or to the stage."""
        save = self._next("queued", "writing", late=False)
        if save is None:
            return False
        if self._stage is None:
            self._guard(save, lambda: self._write_to_place(save))
        else:
            self._write_to_stage(save, self._stage)
        return True

    def _upload(self) -> bool:
        """Upload one staged save, or the newest one that was left behind."""
        save = self._next("staged", "uploading", late=True)
        if save is not None:
            self._guard(save, lambda: self._write_to_place(save))
        elif self._closing:
            return False
        elif self._stage is not None:
            self._upload_left_behind(self._stage)
        return True

    def _guard(self, save: Save, work: Callable[[], None]) -> None:
        """Run a save's last phase and end it, whatever happens."""
        try:
            work()
        except CancelledError:
            self._end(save, "cancelled")
        except Exception as error:
            self._end(save, "failed", error)
        else:
            self._end(save, "done")
            if self._around.identity.rank == 0:
                self._prune(save)

    def _write_to_place(self, save: Save) -> None:
        around, identity = self._around, self._around.identity
        storage = self._patient(self._place, save, save.deadline)
        if not save.sources:
            save.sources = save.files([identity.rank], identity.world_size, with_state=identity.rank == 0)
        write_part(storage, save, save.sources, identity.rank)
        if identity.rank == 0:
            self._commit(storage, save, range(identity.world_size), save.deadline, around.may_commit)

    def _commit(
        self,
        storage: Storage,
        save: Save,
        ranks: Sequence[int],
        deadline: float,
        may_commit: Callable[[], None],
    ) -> None:
        manifest = commit(
            storage,
            save,
            self._around.identity,
            ranks=ranks,
            now=self._around.now(),
            clock=self._around.clock,
            deadline=deadline,
            may_commit=may_commit,
            on_note=self._around.on_note,
        )
        save.bytes = manifest.total_bytes

    def _write_to_stage(self, save: Save, stage: LocalStorage) -> None:
        """Write this process's shares of the node's copy; a full or broken disk costs the copy, not the save."""
        around, identity = self._around, self._around.identity
        deadline = min(save.deadline, around.clock() + STAGE_WAIT_S)
        storage = self._patient(stage, save, deadline)
        leads = identity.rank == around.node[0]
        own = save.files([identity.rank], identity.world_size, with_state=identity.rank == 0)
        try:
            files = save.files(sorted(save.shares), identity.world_size, with_state=leads)
            working = stage.working_folder(save.folder, save.attempt)

            def hold_open() -> None:
                opened = OpenFiles(stage, {name: f"{working}/{name}" for name in own})
                save.sources, save.close_sources = opened.sources(), opened.close

            write_part(storage, save, files, identity.rank, hold_open)
            self._release(save)
        except CancelledError:
            self._end(save, "cancelled")
            return
        except Exception as error:
            self._tell(
                f"step {save.step}: no local copy on {identity.host}: {explain(error)}; uploading from memory"
            )
            save.sources = own
            self._stage_ready(save)
            return
        if leads:  # the copy is complete before the upload begins
            try:
                self._commit(storage, save, around.node, deadline, lambda: None)
                bound_stage(stage, around.stage_keep, staged_step=save.step)
            except CancelledError:
                pass
            except Exception as error:
                self._tell(f"step {save.step}: no local copy on {identity.host}: {explain(error)}")
        self._stage_ready(save)

    def _stage_ready(self, save: Save) -> None:
        with self._changed:
            if save.phase == "writing":
                save.phase = "staged"
                if save.cancelled.is_set():
                    self._end(save, "cancelled")
            self._changed.notify_all()

    def _upload_left_behind(self, stage: LocalStorage) -> None:
        """Copy the newest staged checkpoint to the place, if that has none as new."""
        around = self._around
        with self._changed:
            self._late_at = around.clock() + LATE_UPLOAD_S
            if any(save.phase not in ENDED for save in self._saves):
                return
            self._late_cancel.clear()
        left = next((found for found in staged(stage) if not found.set_aside), None)
        began = around.clock()
        target = Retrying(
            self._place, deadline=began + LATE_UPLOAD_S * 4, clock=around.clock, cancelled=self._late_cancel
        )
        try:
            if left is not None and copy_checkpoint(stage, target, left, may_commit=around.may_commit):
                around.on_record(
                    CheckpointRecord(
                        step=left.step,
                        url=self._place.url,
                        bytes=left.bytes,
                        pause_s=0.0,
                        commit_s=around.clock() - began,
                    )
                )
        except CancelledError:
            pass
        except Exception as error:
            around.on_note(f"the local copy {stage.url} still cannot be uploaded: {explain(error)}")
            return
        self._late_at = None

    def _patient(self, storage: Storage, save: Save, deadline: float) -> Retrying:
        return Retrying(
            storage,
            deadline=deadline,
            clock=self._around.clock,
            cancelled=save.cancelled,
            on_retry=lambda text: self._around.on_note(f"step {save.step}: {text}"),
        )

    def _release(self, save: Save) -> None:
        """Give the host copy back for the next save."""
        save.shares = {share: {} for share in save.shares}
        memory, save.memory = save.memory, None
        if memory is not None:
            memory.release()

    def _end(self, save: Save, phase: str, error: Exception | None = None) -> None:
        around = self._around
        save.close_sources()
        save.sources = {}
        self._release(save)
        with self._changed:
            save.phase = phase
            save.error = explain(error) if error is not None else None
            if phase == "failed" and around.identity.rank == 0 and self._stage is not None:
                self._late_at = around.clock() + LATE_UPLOAD_S
            if phase != "done":
                self._torn.append((save.folder, save.attempt))
            self._changed.notify_all()
        if around.identity.rank == 0 and phase in ("done", "failed"):
            around.on_record(
                CheckpointRecord(
                    step=save.step,
                    url=self._place.url,
                    bytes=save.bytes,
                    pause_s=save.pause_s,
                    commit_s=around.clock() - save.started,
                    error=save.error,
                )
            )
        elif phase == "failed":
            self._tell(f"step {save.step}: {around.identity.name(around.identity.rank)}: {save.error}")
        save.finished.set()

    def _tell(self, text: str) -> None:
        if self._around.identity.rank == 0:
            self._around.on_note(text)
        else:
            with self._changed:
                self._problems.append(text)

    def _prune(self, save: Save) -> None:
        storage = self._patient(
            self._place, save, self._around.clock() + max(60.0, save.deadline - save.started)
        )
        with self._changed:
            torn, self._torn = self._torn, []
        try:
            for folder, attempt in torn:
                remove_attempt(storage, folder, attempt)
            self._around.prune(storage)
        except CancelledError:
            pass
        except Exception as error:
            self._around.on_note(f"old checkpoints could not be removed: {explain(error)}")
