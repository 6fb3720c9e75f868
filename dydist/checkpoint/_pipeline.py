"""Saves in the background: one thread writes to the disk, one uploads. Neither blocks the training loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dydist.checkpoint._context import TransferContext
from dydist.checkpoint._policy import ENDED, WAITING
from dydist.checkpoint._save import Save
from dydist.checkpoint._transfer import Transfer
from dydist.errors import CancelledError
from dydist.records import CheckpointRecord
from dydist.storage.local import LocalStorage
from dydist.storage.protocol import Storage
from dydist.storage.transient import explain

LATE_UPLOAD_S = 30.0
"""Seconds between retries of a staged checkpoint's upload while the pipeline is idle."""


class Pipeline:
    """The saves of one process. `stage`: a folder on the node's own disk, for a remote store."""

    def __init__(self, store: Storage, stage: LocalStorage | None, context: TransferContext) -> None:
        self._context = context
        self._url = store.url
        self._staging = stage is not None
        self._transfer = Transfer(store, stage, context, self._tell)
        self._changed = threading.Condition()
        self._saves: list[Save] = []
        self._problems: list[str] = []
        self._torn: list[tuple[str, str]] = []
        self._late_at: float | None = None
        self._interrupt_late = threading.Event()
        self._interrupt_tidying = threading.Event()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, args=(self._write,), name="checkpoint-write", daemon=True)
        ]
        if self._staging:
            self._threads.append(
                threading.Thread(
                    target=self._run, args=(self._upload,), name="checkpoint-upload", daemon=True
                )
            )
        for thread in self._threads:
            thread.start()

    def phases(self) -> dict[str, str]:
        """Attempt → phase, for the recent saves."""
        with self._changed:
            return {save.attempt: save.phase for save in self._saves}

    def latest(self) -> Save | None:
        """The newest save that was neither cancelled nor has failed."""
        with self._changed:
            good = [save for save in self._saves if save.phase not in ("failed", "cancelled")]
        return good[-1] if good else None

    def find(self, attempt: str) -> Save | None:
        """The save with this attempt, or None."""
        with self._changed:
            return next((save for save in self._saves if save.attempt == attempt), None)

    def pop_problems(self) -> tuple[str, ...]:
        """Failures on this process since the last call."""
        with self._changed:
            problems, self._problems = tuple(self._problems), []
        return problems

    def cancel(self, attempts: frozenset[str]) -> list[int]:
        """Cancel saves that have not ended. Returns their steps."""
        with self._changed:
            given_up = [s for s in self._saves if s.attempt in attempts and s.phase not in ENDED]
            for save in given_up:
                save.cancelled.set()
                if save.phase in WAITING:
                    self._end(save, "cancelled")
        return [save.step for save in given_up]

    def submit(self, save: Save) -> None:
        """Queue a save."""
        with self._changed:
            ended = [s for s in self._saves if s.phase in ENDED]
            self._saves = [*ended[-4:], *(s for s in self._saves if s.phase not in ENDED), save]
            self._interrupt_late.set()
            if save.final:  # the run waits for it: remove older checkpoints afterwards
                self._interrupt_tidying.set()
            self._changed.notify_all()

    def upload_late(self) -> None:
        """Upload the newest staged checkpoint, from this process only, once the pipeline is idle."""
        with self._changed:
            self._late_at = self._context.clock.monotonic()
            self._changed.notify_all()

    def close(self, wait_s: float) -> None:
        """Wait up to `wait_s` seconds for saves in flight, then stop the threads."""
        with self._changed:
            self._changed.wait_for(lambda: all(s.phase in ENDED for s in self._saves), timeout=wait_s)
            for save in self._saves:
                if save.phase not in ENDED:
                    save.cancelled.set()
            self._interrupt_late.set()
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=wait_s)

    def _run(self, work: Callable[[], bool]) -> None:
        while work():
            pass

    def _next(self, waiting: str, active: str, *, late: bool) -> Save | None:
        """Wait for the next save; None when closing, or (`late`) when a failed upload is due for a retry."""
        with self._changed:
            while not self._closing:
                save = next((save for save in self._saves if save.phase == waiting), None)
                if save is not None:
                    save.phase = active
                    return save
                left = (
                    None
                    if self._late_at is None or not late
                    else self._late_at - self._context.clock.monotonic()
                )
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
        return None

    def _write(self) -> bool:
        """Write one save to the store, or to the stage."""
        save = self._next("queued", "writing", late=False)
        if save is None:
            return False
        if not self._staging:
            self._bring_to_store(save)
            return True
        try:
            self._transfer.to_stage(save, lambda: self._staged(save))
        except CancelledError:
            self._end(save, "cancelled")
        return True

    def _upload(self) -> bool:
        """Upload one staged save, or the newest staged checkpoint whose upload failed."""
        save = self._next("staged", "uploading", late=True)
        if save is not None:
            self._bring_to_store(save)
        elif self._closing:
            return False
        else:
            self._upload_newest_staged()
        return True

    def _bring_to_store(self, save: Save) -> None:
        """Run a save's last phase, and end the save whether or not it succeeds."""
        try:
            self._transfer.to_store(save)
        except CancelledError:
            self._end(save, "cancelled")
        except Exception as error:
            self._end(save, "failed", error)
        else:
            self._end(save, "done")
            if self._context.identity.rank == 0:
                self._tidy(save)

    def _staged(self, save: Save) -> None:
        with self._changed:
            if save.phase == "writing":
                save.phase = "staged"
                if save.cancelled.is_set():
                    self._end(save, "cancelled")
            self._changed.notify_all()

    def _upload_newest_staged(self) -> None:
        with self._changed:
            self._late_at = self._context.clock.monotonic() + LATE_UPLOAD_S
            if any(save.phase not in ENDED for save in self._saves):
                return
            self._interrupt_late.clear()
        if self._transfer.upload_newest_staged(self._interrupt_late):
            with self._changed:
                self._late_at = None

    def _tidy(self, save: Save) -> None:
        with self._changed:
            torn, self._torn = self._torn, []
            if any(other.final and other.phase not in ENDED for other in self._saves):
                self._interrupt_tidying.set()
            else:
                self._interrupt_tidying.clear()
        if not self._transfer.tidy(save, torn, self._interrupt_tidying):
            with self._changed:
                self._torn += torn

    def _end(self, save: Save, phase: str, error: Exception | None = None) -> None:
        context = self._context
        save.close()
        with self._changed:
            save.phase = phase
            save.error = explain(error) if error is not None else None
            if phase == "failed" and context.identity.rank == 0 and self._staging:
                self._late_at = context.clock.monotonic() + LATE_UPLOAD_S
            if phase != "done":
                self._torn.append((save.folder, save.attempt))
            self._changed.notify_all()
        if context.identity.rank == 0 and phase in ("done", "failed"):
            context.on_record(
                CheckpointRecord(
                    step=save.step,
                    url=self._url,
                    bytes=save.bytes,
                    pause_s=save.pause_s,
                    commit_s=context.clock.monotonic() - save.started,
                    error=save.error,
                )
            )
        elif phase == "failed":
            self._tell(f"step {save.step}: {context.identity.name(context.identity.rank)}: {save.error}")
        save.finished.set()

    def _tell(self, text: str) -> None:
        """Report a failure of this process: process 0 at once, others at the next save."""
        if self._context.identity.rank == 0:
            self._context.on_note(text, level="warning")
        else:
            with self._changed:
                self._problems.append(text)
