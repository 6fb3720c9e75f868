"""Filters the candidates by `checkpoint.resume`, and decides what a start does if none is valid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dydist.checkpoint._agreement import Agreement
from dydist.checkpoint._restore import Candidate, find_source, load_weights, set_aside, undo_set_aside
from dydist.config.rules import names_source
from dydist.errors import UserError
from dydist.storage.protocol import Storage
from dydist.text.strict import whole_number

if TYPE_CHECKING:
    from dydist.checkpoint._tensors import TrainingState


class ResumePoint:
    """The choice of one start. `resume`: auto, never, a step, or another run's path or URL. Methods are
    collective."""

    def __init__(self, resume: str, *, job: str, agreement: Agreement, store: Storage) -> None:
        self._resume = resume
        self._job = job
        self._agreement = agreement
        self._store = store

    @property
    def why(self) -> str:
        """The reason recorded in the marks of checkpoints that are set aside."""
        return f"checkpoint.resume={self._resume}"

    def choose(self, options: list[Candidate]) -> tuple[list[Candidate], int | None]:
        """The allowed candidates, newest first, and the step after which all checkpoints of the store were set aside.

        Raises UserError if the requested step is not in the store.
        """
        resume, agreement, store = self._resume, self._agreement, self._store
        live = [option for option in options if not option.found.set_aside]
        newest = next((o.found.manifest for o in live if o.found.manifest and o.found.problem is None), None)
        own = newest is not None and bool(self._job) and newest.job == self._job
        if own or resume == "auto" or self._is_source:
            return live, None
        step = -1 if resume == "never" else int(resume)
        chosen = [option for option in options if option.found.step == step]
        if resume != "never" and not chosen:
            there = ", ".join(str(option.found.step) for option in options[:10]) or "none"
            raise UserError(
                f"checkpoint.resume: no step {step} at {store.url}; there are: {there}; use one, or auto"
            )
        agreement.on_rank0(lambda: undo_set_aside(store, [o.found for o in chosen if o.remote]))
        later = [option.found for option in live if option.found.step > step]
        if not later:
            return chosen, None
        agreement.note(f"{len(later)} checkpoints after step {max(step, 0)} are set aside at {store.url}")
        remote = [o.found for o in live if o.remote and o.found.step > step]
        agreement.on_rank0(lambda: set_aside(store, remote, why=self.why))
        return chosen, step

    def fallback(self, chosen: list[Candidate], storage_at: Callable[[str], Storage]) -> TrainingState | None:
        """The state for a run without a valid checkpoint of its own: another run's weights, or None for step 0.

        Raises UserError if the requested step is damaged, or the other run has no valid checkpoint.
        """
        agreement, url = self._agreement, self._store.url
        if whole_number(self._resume) is not None and chosen:
            raise UserError(
                f"checkpoint.resume: step {self._resume} at {url} is damaged; use another step, or auto"
            )
        if chosen:
            agreement.note(f"no checkpoint at {url} is valid: starting at step 0", level="warning")
        if not self._is_source:
            return None
        source, found = agreement.on_rank0(
            lambda: find_source(storage_at, self._resume), field="checkpoint.resume"
        )
        state, problem = agreement.all_succeed(lambda: load_weights(storage_at(source), found))
        if problem is not None:
            raise UserError(
                f"checkpoint.resume: {problem}; use another checkpoint, or checkpoint.resume=never"
            )
        return state

    @property
    def _is_source(self) -> bool:
        return names_source(self._resume)
