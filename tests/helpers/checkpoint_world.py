"""Simulated processes: threads that say `broadcast` and `gather` to each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dydist.checkpoint import Checkpointer, Clock, LeaseTiming, RankGroup, RunInfo, Storage, open_storage
from dydist.config import CheckpointConfig
from dydist.records import CheckpointRecord
from helpers.checkpoint_places import Place

T = TypeVar("T")


class Announcing(list):  # type: ignore[type-arg]
    """Records that set an event when one comes."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def append(self, record: Any) -> None:
        super().append(record)
        self._event.set()


class World:
    """`size` processes, each a thread; `nodes` says on which host each runs (its stage is the host's own folder)."""

    def __init__(
        self, size: int, place: Place, stages: Path, *, nodes: list[str] | None = None, patience_s: float = 60
    ) -> None:
        """`patience_s`: how long a collective waits for a process, as parallel.timeout_s does."""
        self._patience_s = patience_s
        self.size = size
        self.place = place
        self.records: list[CheckpointRecord] = []
        self.notes: list[str] = []
        self._stages = stages
        self._nodes = nodes or ["node"] * size
        self._barrier = threading.Barrier(size)
        self._slots: list[Any] = [None] * size

    def gather(self, rank: int, value: T) -> list[T]:
        self._slots[rank] = value
        self._barrier.wait(self._patience_s)
        result = list(self._slots)
        self._barrier.wait(self._patience_s)
        return result

    def checkpointer(
        self,
        rank: int,
        *,
        open_at: Callable[[str, Any], Storage] = open_storage,
        job: str = "",
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        lease_timeout_s: float = 10.0,
        **config: Any,
    ) -> Checkpointer:
        """The checkpointer of one process."""
        return Checkpointer(
            CheckpointConfig(
                stage_dir=str(self._stages / self._nodes[rank]), storage_options=self.place.options, **config
            ),
            RunInfo(name="world", url=self.place.url, job=job),
            RankGroup(
                rank=rank,
                world_size=self.size,
                broadcast=lambda value: self.gather(rank, value)[0],
                gather=lambda value: self.gather(rank, value),
                host=self._nodes[rank],
            ),
            on_record=self.records.append,
            on_note=lambda text, *, level="info": self.notes.append(text),
            stop=stop,
            clock=Clock(monotonic=clock),
            open_at=open_at,
            lease_timing=LeaseTiming(interval_s=0.25, timeout_s=lease_timeout_s),
        )

    def run(self, program: Callable[[int], T]) -> list[T | BaseException]:
        """Run a program on every process; results or errors by rank."""
        results: list[Any] = [None] * self.size

        def process(rank: int) -> None:
            try:
                results[rank] = program(rank)
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
