"""The background steps of one save: write to the stage, write to the store, tidy up afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from dydist.checkpoint._catalog import CheckpointFolder, verify
from dydist.checkpoint._context import TransferContext
from dydist.checkpoint._copy import copy_checkpoint
from dydist.checkpoint._housekeeping import prune, remove_attempt
from dydist.checkpoint._save import Save, commit, write_part
from dydist.checkpoint._stage import OpenFiles, prune_stage, staged
from dydist.errors import CancelledError, DamagedError
from dydist.records import CheckpointRecord
from dydist.storage.local import LocalStorage
from dydist.storage.protocol import Storage
from dydist.storage.retry import Retrying
from dydist.storage.transient import explain

STAGE_WAIT_S = 30.0
"""Seconds to wait for the other processes of a node to write their shares to its disk."""
TIDYING_S = 10.0
"""Seconds after which failing requests end the tidying after a save; the next save tidies again."""


class Transfer:
    """Writes the saves of one process. `stage`: a folder on the node's disk, for a remote store.

    `tell`: reports a failure of this process to the user.
    """

    def __init__(
        self,
        store: Storage,
        stage: LocalStorage | None,
        context: TransferContext,
        tell: Callable[[str], None],
    ) -> None:
        self._store = store
        self._stage = stage
        self._context = context
        self._tell = tell
        self._read_back: set[str] = set()
        self._staged_back: set[str] = set()

    def to_store(self, save: Save) -> None:
        """Write this process's share to the store; process 0 then waits for the others and commits."""
        identity = self._context.identity
        storage = self._retrying(self._store, save, save.deadline)
        if not save.sources:
            save.sources = save.files([identity.rank], identity.world_size, with_state=identity.rank == 0)
        write_part(storage, save, save.sources, identity.rank)
        if identity.rank == 0:
            self._commit(storage, save, range(identity.world_size), save.deadline, self._context.may_commit)

    def to_stage(self, save: Save, staged_whole: Callable[[], None]) -> None:
        """Write this process's shares of the node's copy. If the disk is full or broken, the upload uses host memory.

        Calls `staged_whole` when the save can be uploaded. Raises CancelledError if it was cancelled before.
        """
        assert self._stage is not None
        context, identity = self._context, self._context.identity
        deadline = min(save.deadline, context.clock.monotonic() + STAGE_WAIT_S)
        storage = self._retrying(self._stage, save, deadline)
        leads = identity.rank == context.node[0]
        own = save.files([identity.rank], identity.world_size, with_state=identity.rank == 0)
        try:
            files = save.files(sorted(save.shares), identity.world_size, with_state=leads)
            working = self._stage.working_folder(save.folder, save.attempt)
            write_part(storage, save, files, identity.rank, lambda: self._hold_open(save, working, own))
            save.release_memory()
        except CancelledError:
            raise
        except Exception as error:
            self._tell(
                f"step {save.step}: no local copy on {identity.host}: {explain(error)}; uploading from memory"
            )
            save.sources = own
            staged_whole()
            return
        if leads:  # the copy is complete before the upload begins
            try:
                self._commit(storage, save, context.node, deadline, lambda: None)
                prune_stage(self._stage, context.stage_keep, staged_step=save.step, trusted=self._staged_back)
            except CancelledError:
                pass
            except Exception as error:
                self._tell(f"step {save.step}: no local copy on {identity.host}: {explain(error)}")
        staged_whole()

    def _hold_open(self, save: Save, working: str, names: Iterable[str]) -> None:
        """Upload a save from its staged files, held open in case their folder is renamed or removed."""
        assert self._stage is not None
        opened = OpenFiles(self._stage, {name: f"{working}/{name}" for name in names})
        save.sources, save.close_sources = opened.sources(), opened.close

    def upload_newest_staged(self, cancelled: threading.Event) -> bool:
        """Copy the newest staged checkpoint to the store, unless it has a newer one. Returns False to retry later."""
        assert self._stage is not None
        context = self._context
        began = context.clock.monotonic()
        target = Retrying(
            self._store,
            deadline=began + context.deadline_s,
            clock=context.clock.monotonic,
            cancelled=cancelled,
        )
        try:
            left = self._newest_staged()
            if left is not None and copy_checkpoint(self._stage, target, left, may_commit=context.may_commit):
                context.on_record(
                    CheckpointRecord(
                        step=left.step,
                        url=self._store.url,
                        bytes=left.bytes,
                        pause_s=0.0,
                        commit_s=context.clock.monotonic() - began,
                    )
                )
        except CancelledError:
            return True
        except Exception as error:
            self._tell(f"the local copy {self._stage.url} still cannot be uploaded: {explain(error)}")
            return False
        return True

    def _newest_staged(self) -> CheckpointFolder | None:
        """The newest staged checkpoint that can be loaded; reports damaged newer ones."""
        assert self._stage is not None
        for found in staged(self._stage):
            if not found.set_aside:
                try:
                    verify(self._stage, found)
                except DamagedError as error:
                    self._tell(f"the local copy at {self._stage.url} is damaged: {error}")
                else:
                    return found
        return None

    def tidy(self, save: Save, torn: Sequence[tuple[str, str]], cancelled: threading.Event) -> bool:
        """After a commit: remove the files of the attempts `torn` (folder and attempt), verify the new checkpoint,
        and remove those that it supersedes. Returns False if interrupted."""
        context = self._context
        storage = self._retrying(self._store, save, context.clock.monotonic() + TIDYING_S, cancelled)
        try:
            for folder, attempt in torn:
                remove_attempt(storage, folder, attempt)
            prune(
                storage, context.rule, now=context.clock.now(), on_damaged=self._tell, trusted=self._read_back
            )
        except CancelledError:
            return False
        except Exception as error:
            self._tell(f"old checkpoints could not be removed: {explain(error)}")
        return True

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
            self._context,
            ranks=ranks,
            deadline=deadline,
            may_commit=may_commit,
        )
        save.bytes = manifest.total_bytes

    def _retrying(
        self, storage: Storage, save: Save, deadline: float, cancelled: threading.Event | None = None
    ) -> Retrying:
        return Retrying(
            storage,
            deadline=deadline,
            clock=self._context.clock.monotonic,
            cancelled=cancelled or save.cancelled,
            on_retry=lambda text: self._context.on_note(f"step {save.step}: {text}", level="warning"),
        )
