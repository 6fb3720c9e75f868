"""A tiny run to be killed: deterministic "training" that saves every few steps, in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from dydist.checkpoint import Checkpointer, RunInfo, Storage, TrainingState, open_storage
from dydist.config import CheckpointConfig
from dydist.storage.protocol import Chunks

STEPS = 30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process does. `kill_at`: the operation on the store, counted from 1, that it does not survive."""

    url: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    every: int = 3
    wait: bool = False
    """Wait for each save, so that the order of operations is always the same."""
    kill_at: int | None = None


def initial() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(4000, generator=generator, dtype=torch.float64) for name in ("a", "b", "c")}


def advance(weights: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
    """One step of "training": chaotic, so that a wrong or stale bit anywhere shows at the end; some milliseconds."""
    result = weights
    for turn in range(8):
        result = {name: torch.sin(tensor * 3.7 + step + turn) for name, tensor in result.items()}
    return result


@functools.cache
def uninterrupted() -> list[dict[str, torch.Tensor]]:
    """The weights after each step of a run that nobody kills; computed once, before processes are forked."""
    result = [initial()]
    for step in range(1, STEPS + 1):
        result.append(advance(result[-1], step))
    return result


class KillingStorage:
    """Counts what is done to a store and ends the process with SIGKILL before the n-th: also in the middle of files."""

    def __init__(self, inner: Storage, kill_at: int | None, count: list[int]) -> None:
        self._inner = inner
        self._kill_at = kill_at
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _boundary(self) -> None:
        count_or_die(self._count, self._kill_at)

    def write(self, name: str, chunks: Chunks) -> None:
        def with_boundary() -> Iterator[bytes | memoryview]:
            for chunk in chunks():
                yield chunk[: len(chunk) // 2]
                self._boundary()
                yield chunk[len(chunk) // 2 :]

        self._boundary()
        self._inner.write(name, with_boundary)

    def create(self, name: str, data: bytes) -> None:
        self._boundary()
        self._inner.create(name, data)

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self._boundary()
        self._inner.publish(working, folder, manifest)

    def delete(self, name: str) -> None:
        self._boundary()
        self._inner.delete(name)

    def delete_folder(self, folder: str) -> None:
        self._boundary()
        self._inner.delete_folder(folder)


def count_or_die(count: list[int], kill_at: int | None) -> None:
    count[0] += 1
    if count[0] == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


FILE_EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")


def kill_at_file_events(folder: str, kill_at: int | None, count: list[int]) -> None:
    """Count this process's own opens, renames, links and removals under a folder, and die before the n-th."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir") and folder in str(
            arguments[0]
        ):
            count_or_die(count, kill_at)

    sys.addaudithook(hook)


def drive(plan: Plan) -> NoReturn:
    """Run to the end, or to its death. Appends to `log` what was restored and committed; `result` has the end."""
    folder = Path(plan.folder)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(**facts: Any) -> None:
        os.write(log, (json.dumps(facts) + "\n").encode())

    count = [0]

    def open_at(url: str, options: Mapping[str, Any]) -> Storage:
        return KillingStorage(open_storage(url, options), plan.kill_at, count)  # type: ignore[return-value]

    if "://" not in plan.url:
        kill_at_file_events(plan.url, plan.kill_at, count)
    checkpointer = Checkpointer(
        CheckpointConfig(
            storage_options=dict(plan.options), stage_dir=str(folder / "stage"), keep=2, deadline_s=60
        ),
        RunInfo(name="killed", url=plan.url, job="killed-job"),
        on_record=lambda record: tell(committed=record.step, error=record.error),
        on_note=lambda text, *, level="info": tell(note=text),
        open_at=open_at if "://" in plan.url else open_storage,
    )
    state = checkpointer.restore()
    step = 0 if state is None else state.step
    weights = initial() if state is None else dict(state.model)
    right = all(torch.equal(weights[name], tensor) for name, tensor in uninterrupted()[step].items())
    tell(restored=step, right=right)
    while step < plan.steps:
        step += 1
        weights = advance(weights, step)
        if step % plan.every == 0 or step == plan.steps:
            kept = TrainingState(step=step, model=weights, optimizer={"m": weights["a"] * 2})
            checkpointer.save(
                step,
                lambda kept=kept: kept,
                accuracy=None,
                final=plan.wait or step == plan.steps,
                deadline_s=60,
            )
    checkpointer.close()
    tell(finished=all(torch.equal(weights[name], tensor) for name, tensor in uninterrupted()[step].items()))
    os._exit(0)
