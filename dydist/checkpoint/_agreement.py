"""How the processes of a run agree, and wait for each other, at a start and at a final save.

Slow work runs on its own thread. Meanwhile the main threads gather, once a round, whether each process is ready and
whether a signal asked it to stop. So no collective lasts longer than a round, however slow the store is, and a signal
to one process stops all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from dydist.checkpoint._context import RankGroup
from dydist.errors import CheckpointError, StopRequestedError, UserError
from dydist.storage.retry import Tell
from dydist.storage.transient import explain, is_of_store, is_refused, is_transient

T = TypeVar("T")

ROUND_S = 1.0
"""Maximum length of a round, in seconds; also the time until a signal takes effect."""
GIVE_UP_S = 2.0
"""Seconds that cancelled work may take to clean up, such as to release a lease."""


class Agreement:
    """Collective operations, called on the main threads.

    `stop`: whether a signal asked this process to stop. `cancelled` is set when all processes have agreed to stop,
    which ends work that waits.
    """

    def __init__(
        self,
        ranks: RankGroup,
        note: Tell,
        *,
        stop: Callable[[], bool] = lambda: False,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.rank = ranks.rank
        self._broadcast = ranks.broadcast
        self.gather = ranks.gather
        self._note = note
        self._stop = stop
        self._cancelled = cancelled or threading.Event()

    def note(self, text: str, *, level: str = "info") -> None:
        """Show a note to the user, on process 0 only."""
        if self.rank == 0:
            self._note(text, level=level)

    def on_rank0(self, work: Callable[[], T], *, field: str = "checkpoint.url") -> T:
        """Process 0's result of `work`, for all; its error is raised on all."""
        return self.on_rank(0, work, field=field)

    def on_rank(self, rank: int, work: Callable[[], T], *, field: str = "checkpoint.url") -> T:
        """One process's result of `work`, for all; its error is raised on all.

        Raises StopRequestedError on every process if one received a signal meanwhile.
        """
        task = Task(work) if self.rank == rank else None
        self._together(task)
        mine = (None, None) if task is None else (task.value, task.error and error_for_all(task.error, field))
        value, error = self._broadcast(mine) if rank == 0 else self.gather(mine)[rank]
        if error is not None:
            kind, text = error
            raise kind(text)
        result: T = value
        return result

    def all_succeed(self, work: Callable[[], T]) -> tuple[T | None, str | None]:
        """Run `work` on every process; return this process's result and the message of the lowest rank that failed,
        or None. Raises StopRequestedError as `on_rank` does."""
        task = Task(work)
        self._together(task)
        problem = None if task.error is None else explain(task.error)
        problems = [(rank, text) for rank, text in enumerate(self.gather(problem)) if text is not None]
        return task.value, None if not problems else f"process {problems[0][0]}: {problems[0][1]}"

    def wait(self, ready: Callable[[float], bool]) -> None:
        """Wait until `ready(seconds)`, which blocks for at most `seconds`, is true on every process; ignores
        signals."""
        while not all(self.gather(ready(ROUND_S))):
            continue

    def _together(self, task: Task[T] | None) -> None:
        """Wait for the tasks of all processes."""
        while True:
            done = task is None or task.finished.wait(ROUND_S)
            votes = self.gather((done, self._stop()))
            if all(done for done, _ in votes):
                return
            if any(stop for _, stop in votes):
                self._cancelled.set()
                if task is not None:
                    task.finished.wait(GIVE_UP_S)
                raise StopRequestedError


class Task(Generic[T]):
    """Work on a daemon thread, started at once."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.value: T | None = None
        self.error: BaseException | None = None
        self.finished = threading.Event()
        threading.Thread(target=self._run, args=(work,), name="checkpoint-start", daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self.value = work()
        except BaseException as error:  # a store's library may raise anything, even asyncio's CancelledError
            self.error = error
        finally:
            self.finished.set()


def error_for_all(error: BaseException, field: str = "checkpoint.url") -> tuple[type[Exception], str]:
    """An error as all processes raise it: what a user can put right is a UserError, which names `field`."""
    if isinstance(error, UserError | CheckpointError):
        return type(error), str(error)
    use = "read" if field == "checkpoint.resume" else "write to"
    if is_refused(error) and isinstance(getattr(error, "filename", None), str):  # a folder here, not a store
        return UserError, f"{field}: access refused: {explain(error)}; give a folder that this user may {use}"
    if is_refused(error):
        return UserError, (
            f"{field}: access refused: {explain(error)}; give credentials through the environment, an AWS "
            "profile, ~/.ssh/config or checkpoint.storage_options"
        )
    wrong_option = (
        isinstance(error, ValueError | TypeError) and is_of_store(error) and not is_transient(error)
    )
    if wrong_option or (isinstance(error, OSError) and not is_transient(error)):
        return UserError, (
            f"{field}: the place cannot be used: {explain(error)}; give a folder or URL that you can {use}"
        )
    return CheckpointError, f"the checkpoint place cannot be used: {explain(error)}"
