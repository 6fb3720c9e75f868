"""A run's interface to checkpoints: restore at the start, save at step boundaries, close at the end."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dydist.checkpoint._agreement import Agreement
from dydist.checkpoint._catalog import survey
from dydist.checkpoint._claim import FOLDER_LEASE, Admit, Claim
from dydist.checkpoint._context import Clock, LeaseTiming, RankGroup, RunInfo, TransferContext
from dydist.checkpoint._format import encode_json
from dydist.checkpoint._housekeeping import Keep
from dydist.checkpoint._lease import LEASE, Lease, this_process
from dydist.checkpoint._pipeline import Pipeline
from dydist.checkpoint._policy import Decision, Status, decide, shares_on_node
from dydist.checkpoint._restore import candidates, newest_valid, set_aside, stored_run
from dydist.checkpoint._resume import ResumePoint
from dydist.checkpoint._save import Identity, Save
from dydist.checkpoint._stage import check_stage, copy_of, open_stage, prepare_stage, staged
from dydist.checkpoint._tensors import HostMemory, TrainingState, split
from dydist.config import CheckpointConfig
from dydist.errors import CheckpointError, LeaseLostError, UserError
from dydist.records import CheckpointRecord
from dydist.storage.local import LocalStorage
from dydist.storage.opening import open_storage
from dydist.storage.places import is_url
from dydist.storage.protocol import Storage
from dydist.storage.retry import Retrying, Tell
from dydist.storage.transient import explain
from dydist.text.redaction import scrub

T = TypeVar("T")

GIVEN_UP_EVERY_S = 30.0
"""Minimum seconds between two notes about saves that newer ones replaced."""
RESTORED = "restored"
"""Stands in for the attempt of the checkpoint from which the run was restored."""


class Checkpointer:
    """Saves a run's state in the background, and restores it.

    Every process has one, and calls `restore`, `save` and `close` at the same step, on the main thread. `on_record`
    and `on_note` are called on process 0, also from background threads: they must be thread-safe and fast. `stop()`:
    whether a signal asked this process to stop. `open_at` is for simulated stores in tests.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        run: RunInfo,
        ranks: RankGroup | None = None,
        *,
        on_record: Callable[[CheckpointRecord], None],
        on_note: Tell,
        stop: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
        lease_timing: LeaseTiming | None = None,
        open_at: Callable[[str, Mapping[str, Any]], Storage] = open_storage,
    ) -> None:
        ranks = ranks or RankGroup()
        self._config = config
        self._run = run
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self._host = ranks.host or socket.gethostname()
        self._stopping, self._never = threading.Event(), threading.Event()
        self._agreement = Agreement(ranks, on_note, stop=stop, cancelled=self._stopping)
        self._on_record = on_record
        self._on_note = on_note
        self._clock = clock = clock or Clock()
        self._open_at = open_at
        self._store = self._open(run.url)
        self._stage: LocalStorage | None = open_stage(run.url, config.stage_dir) if is_url(run.url) else None
        self._hosts: tuple[str, ...] = ()

        def lease(storage: Storage, name: str, field: str) -> Lease:
            made = Lease(
                lambda seconds: self._retrying(storage, seconds, given_up=not made.held),
                this_process(run=run.name, job=run.job, host=self._host, now=clock.now()),
                timing=lease_timing or LeaseTiming(),
                clock=clock,
                on_note=on_note,
                cancelled=self._stopping,
                name=name,
                field=field,
            )
            return made

        leases = [lease(self._store, LEASE, "checkpoint.url")]
        if run.folder is not None:
            leases.insert(0, lease(LocalStorage(run.folder, durable=False), FOLDER_LEASE, "run.name"))
        self._claim = Claim(leases)
        self.run_id: str | None = None
        """The run's id, which `admit` returned in `restore`."""
        self._pipeline: Pipeline | None = None
        self._restored_step: int | None = None
        self._memory = HostMemory()
        self._given_up: list[int] = []
        self._given_up_told = float("-inf")

    def restore(self, admit: Admit | None = None) -> TrainingState | None:
        """Take the leases of run folder and store, and read the state to resume from; None means step 0.

        Process 0 calls `admit` before it changes anything in the store.

        `config.resume` is "auto": the newest valid checkpoint (damaged ones are reported and skipped); "never": none,
        and existing ones are set aside; a step: that checkpoint, and later ones are set aside; a URL: this run's
        newest checkpoint, or if there is none, only the other run's weights (step 0, no optimizer state). A requeued
        job always resumes from its own newest checkpoint.

        Raises UserError if another run holds the lease or the requested step does not exist, NewerFormatError if a
        newer dydist wrote a checkpoint, CheckpointError if the store cannot be reached within `config.deadline_s`, and
        StopRequestedError if `stop()` becomes true on any process. All processes raise the same error.
        """
        agreement = self._agreement
        try:
            agreement.on_rank0(lambda: self._claim.acquire(self._config.deadline_s))
            return self._restore(agreement, admit)
        except BaseException:
            if self._rank == 0:
                self._claim.release()
            raise

    def _restore(self, agreement: Agreement, admit: Admit | None) -> TrainingState | None:
        stage_name = str(self._stage.root) if self._stage is not None else ""
        stage_problem = None if self._stage is None else check_stage(self._stage)
        if (problem := next(filter(None, agreement.gather(stage_problem)), None)) is not None:
            raise UserError(
                f"checkpoint.stage_dir: {problem}; remove that folder, or give another one on the node's own disk"
            )
        nodes = agreement.gather((self._host, stage_name))
        self._hosts = tuple(host for host, _ in nodes)
        node = tuple(rank for rank, name in enumerate(nodes) if name == nodes[self._rank])
        if self._stage is not None and self._rank == node[0]:
            self._try_stage(lambda stage: prepare_stage(stage, self._run.url, now=self._clock.now()))
        store = self._retrying(self._store, self._config.deadline_s, given_up=True)
        options = candidates(agreement, store, self._stage)
        if admit is not None:
            self.run_id = agreement.on_rank0(lambda: admit(stored_run(store, self._stage, options)))
        resume = ResumePoint(self._config.resume, job=self._run.job, agreement=agreement, store=store)
        chosen, aside_after = resume.choose(options)
        if aside_after is not None and self._stage is not None and self._rank == node[0]:
            why = resume.why
            self._try_stage(
                lambda stage: set_aside(stage, [f for f in staged(stage) if f.step > aside_after], why=why)
            )
        result = newest_valid(agreement, store, self._stage, chosen, self._world_size)
        state = resume.fallback(chosen, self._retrying_at) if result is None else result[0]
        self._restored_step = state.step if result is not None and state is not None else None
        pipeline = self._start(node)
        if result is not None and not result[1].remote and self._rank == 0:
            pipeline.upload_late()
        return state

    def _start(self, node: tuple[int, ...]) -> Pipeline:
        config = self._config
        rule = Keep(keep=config.keep, keep_every_steps=config.keep_every_steps, keep_best=config.keep_best)
        identity = Identity(
            run=self._run.name,
            job=self._run.job,
            rank=self._rank,
            world_size=self._world_size,
            hosts=self._hosts,
        )
        self._node = node
        self._pipeline = Pipeline(
            self._store,
            self._stage,
            TransferContext(
                identity=identity,
                node=node,
                stage_keep=config.stage_keep,
                deadline_s=config.deadline_s,
                rule=rule,
                clock=self._clock,
                may_commit=self._claim.check,
                on_record=self._on_record,
                on_note=self._on_note,
            ),
        )
        return self._pipeline

    def save(
        self,
        step: int,
        state: Callable[[], TrainingState],
        *,
        accuracy: float | None,
        final: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        """Save the state after `step`; returns when it is copied to host memory. Collective.

        `state` is called at once, on the main thread; its tensors may change as soon as `save` returns. `accuracy`:
        the test accuracy of this step, a fraction, or None. A `final` save returns when it is committed, after at
        most `deadline_s` seconds (default: config.deadline_s). Failures of other saves are reported through
        `on_record` and `on_note`.

        Raises CheckpointError, which names the local copy, if a final save was not committed in time, and
        LeaseLostError if another run took the lease. All processes raise the same error.
        """
        began = self._clock.monotonic()
        pipeline = self._running()
        limit = self._config.deadline_s if deadline_s is None else deadline_s
        decision = self._decide(pipeline, step, final=final)
        if decision.reuse is None and decision.skip is None:
            # Slightly less than the limit, so that a final save fails, with its own error, before the wait for it ends.
            self._submit(
                pipeline, step, state(), decision.attempt, accuracy, final, began, began + 0.95 * limit
            )
        elif decision.skip is not None:
            self._agreement.note(f"step {step} is not saved: {decision.skip}")
        if final:
            self._await(pipeline, step, decision.reuse or decision.attempt, began + limit)

    def close(self, wait_s: float = 30.0) -> None:
        """Wait up to `wait_s` seconds for saves in flight, stop the threads and release the leases.

        Not collective. Call it at the end of a run, also of one that failed.
        """
        if self._pipeline is not None:
            self._pipeline.close(wait_s)
            self._pipeline = None
        if self._rank == 0:
            self._claim.release()

    @property
    def lost(self) -> bool:
        """Whether process 0 knows that another run took a lease: the next save raises LeaseLostError."""
        return self._claim.lost is not None

    def together(self, work: Callable[[], T]) -> T:
        """Run slow `work` on process 0; return its result on every process. Waits as `restore` does. Collective."""
        return self._agreement.on_rank0(work)

    def saved_steps(self, seconds: float = 10.0) -> list[int] | None:
        """Steps with a complete checkpoint that is not set aside; None if the store does not answer in time.

        Not collective.
        """
        try:
            found = survey(self._retrying(self._store, seconds))
        except Exception as error:
            self._on_note(f"{self._store.url} cannot be listed: {explain(error)}", level="warning")
            return None
        return [item.step for item in found if item.problem is None and not item.set_aside]

    def _decide(self, pipeline: Pipeline, step: int, *, final: bool) -> Decision:
        """Decide, on all processes, which saves to cancel and whether to start this one."""
        latest = pipeline.latest()
        same_step = latest.attempt if latest is not None and latest.step == step else None
        status = Status(
            rank=self._rank,
            token=uuid.uuid4().hex[:12],
            phases=pipeline.phases(),
            same_step=RESTORED if step == self._restored_step else same_step,
            memory=self._memory.free,
            lost=self._claim.lost,
            problems=pipeline.pop_problems(),
        )
        statuses = self._agreement.gather(status)
        for problem in (problem for other in statuses for problem in other.problems):
            self._agreement.note(problem, level="warning")
        decision = decide(statuses, final=final)
        if decision.lost is not None:
            store, other = decision.lost
            raise LeaseLostError(f"{store} was taken over by {other}; this run writes no more")
        self._given_up += pipeline.cancel(decision.cancel)
        if self._given_up and (final or self._clock.monotonic() - self._given_up_told >= GIVEN_UP_EVERY_S):
            steps = ", ".join(map(str, self._given_up[-10:]))
            self._agreement.note(
                f"{len(self._given_up)} saves were replaced by newer ones, because saves are started faster than "
                f"{self._store.url} can store them; last: {steps}"
            )
            self._given_up, self._given_up_told = [], self._clock.monotonic()
        return decision

    def _submit(
        self,
        pipeline: Pipeline,
        step: int,
        state: TrainingState,
        attempt: str,
        accuracy: float | None,
        final: bool,
        began: float,
        deadline: float,
    ) -> None:
        """Copy this process's shares and queue them for the background threads."""
        memory = self._memory.reserve()
        mine = (
            [self._rank] if self._stage is None else shares_on_node(self._rank, self._node, self._world_size)
        )
        shares = split(state, self._world_size)
        copies = memory.take({share: shares[share] for share in mine})
        values = {**state.extra, "step": step, "accuracy": accuracy}
        pipeline.submit(
            Save(
                step=step,
                attempt=attempt,
                accuracy=accuracy,
                final=final,
                state=encode_json(values),
                shares=copies,
                memory=memory,
                started=began,
                deadline=deadline,
                pause_s=self._clock.monotonic() - began,
            )
        )

    def _await(self, pipeline: Pipeline, step: int, attempt: str, until: float) -> None:
        """Wait for a save to end; all processes raise CheckpointError if process 0 has not committed it."""
        save = pipeline.find(attempt)

        def ready(seconds: float) -> bool:
            left = until - self._clock.monotonic()
            return save is None or save.finished.wait(max(0.0, min(seconds, left))) or left <= seconds

        self._agreement.wait(ready)
        good = attempt == RESTORED or (save is not None and save.phase == "done")
        error = (
            None if good else (save.error if save is not None and save.error else "it did not finish in time")
        )
        copy = None if good or self._stage is None else self._try_stage(lambda stage: copy_of(stage, attempt))
        error, copy = self._agreement.gather((error, copy))[0]
        if error is None:
            return
        where = (
            f"there is a complete local copy: {copy} on host {self._hosts[0]}; start the run again on that host"
            if copy
            else ("there is no local copy")
        )
        how = f", or `dydist checkpoint copy {os.path.dirname(copy)} {scrub(self._run.url)}`" if copy else ""
        raise CheckpointError(f"step {step} was not saved at {self._store.url}: {error}; {where}{how}")

    def _running(self) -> Pipeline:
        if self._pipeline is None:
            raise RuntimeError("Checkpointer.restore must be called before save")
        return self._pipeline

    def _retrying(self, storage: Storage, seconds: float, *, given_up: bool = False) -> Retrying:
        """`given_up`: whether to give up once all processes have agreed to stop, as for the work of a start."""
        return Retrying(
            storage,
            deadline=self._clock.monotonic() + seconds,
            clock=self._clock.monotonic,
            cancelled=self._stopping if given_up else self._never,
            on_retry=lambda text: self._on_note(text, level="warning"),
        )

    def _open(self, url: str) -> Storage:
        return self._open_at(url, self._config.storage_options)

    def _retrying_at(self, url: str) -> Retrying:
        return self._retrying(self._open(url), self._config.deadline_s, given_up=True)

    def _try_stage(self, work: Callable[[LocalStorage], T]) -> T | None:
        """Run `work` on the stage; a failure is only reported."""
        assert self._stage is not None
        try:
            return work(self._stage)
        except OSError as error:
            self._on_note(
                f"the local stage {self._stage.url} on {self._host} cannot be used: {explain(error)}",
                level="warning",
            )
            return None
