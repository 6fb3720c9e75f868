"""The cost of saving: the loop's pause, the time to a commit and the extra memory, against two alternatives.

DY-ResNet18 with momentum on the CPU. dydist blocks the loop only for the copy; `torch.save` and Accelerate's
`save_state` block it for the whole write. All write to the same folder, interleaved in one process.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from dydist.checkpoint import Checkpointer, RunInfo, TrainingState
from dydist.config import CheckpointConfig
from dydist.models import dy_resnet18
from dydist.records import CheckpointRecord


@dataclass(frozen=True, kw_only=True)
class SaveCost:
    """The cost of one way of saving, in seconds and bytes, one value per save. `pause_s`: until the call returns;
    `commit_s`: until all data is on disk; `extra_bytes`: peak resident memory minus that before the save."""

    way: str
    pause_s: list[float]
    commit_s: list[float]
    extra_bytes: list[int]

    @property
    def pause(self) -> float:
        """Median pause in seconds."""
        return median(self.pause_s)

    @property
    def commit(self) -> float:
        """Median time until all data is on disk, in seconds."""
        return median(self.commit_s)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All ways of saving; `state_bytes`: weights, buffers and momentum."""

    state_bytes: int
    ways: list[SaveCost]

    @property
    def pause_ratio(self) -> float:
        """Ratio of dydist's pause to torch.save's time to disk, by medians. Target: at most 0.1."""
        by_way = {cost.way: cost for cost in self.ways}
        return by_way["dydist"].pause / by_way["torch.save"].commit

    @property
    def unflushed_ratio(self) -> float:
        """The same for torch.save without a flush, whose file a power loss may destroy."""
        by_way = {cost.way: cost.pause for cost in self.ways}
        return by_way["dydist"] / by_way["torch.save"]


def measure(folder: Path, *, saves: int, width: float) -> Comparison:
    """Save `saves` times in each way to folders under `folder`, interleaved; the first save of each is discarded."""
    model = dy_resnet18(width=width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    weights = dict(model.state_dict())
    momentum = {
        f"momentum.{name}": optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
    }
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(model, optimizer)
    ours = _Ours(folder / "dydist", weights, momentum)
    torch_file, accelerate_folder = folder / "torch.pt", folder / "accelerate"

    def flushed(save: Callable[[], object], target: Path) -> tuple[float, float]:
        began = time.perf_counter()
        save()
        returned = time.perf_counter()
        for file in [target, *target.rglob("*")]:
            if file.is_file():
                _flush(file)
        return returned - began, time.perf_counter() - began

    def torch_save() -> None:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, torch_file)

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "dydist": ours.save,
        "torch.save": lambda: flushed(torch_save, torch_file),
        "save_state": lambda: flushed(
            lambda: accelerator.save_state(str(accelerate_folder)), accelerate_folder
        ),
    }
    costs: dict[str, SaveCost] = {
        way: SaveCost(way=way, pause_s=[], commit_s=[], extra_bytes=[]) for way in ways
    }
    try:
        for turn in range(saves + 1):
            for way, save in ways.items():
                with _peak_memory() as peak:
                    pause, commit = save()
                costs[way].extra_bytes.append(
                    peak[0]
                )  # dydist's first save allocates host memory and keeps it
                if turn:
                    costs[way].pause_s.append(pause)
                    costs[way].commit_s.append(commit)
    finally:
        ours.close()
        shutil.rmtree(accelerate_folder, ignore_errors=True)
        torch_file.unlink(missing_ok=True)
    tensors = [*weights.values(), *momentum.values()]
    return Comparison(
        state_bytes=sum(t.numel() * t.element_size() for t in tensors), ways=list(costs.values())
    )


class _Ours:
    """Saves with a Checkpointer; waits for each save outside the measured pause, so that saves do not overlap."""

    def __init__(
        self, place: Path, weights: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]
    ) -> None:
        self._state = (weights, momentum)
        self._step = 0
        self._record: CheckpointRecord | None = None
        self._committed = threading.Event()
        self._checkpointer = Checkpointer(
            CheckpointConfig(keep=1, resume="never"),
            RunInfo(name="bench", url=str(place)),
            on_record=self._note,
            on_note=lambda text, *, level="info": None,
        )
        self._checkpointer.restore()

    def _note(self, record: CheckpointRecord) -> None:
        self._record = record
        self._committed.set()

    def save(self) -> tuple[float, float]:
        """Save; returns the pause and the time to the commit, in seconds."""
        self._step += 1
        self._committed.clear()
        weights, momentum = self._state
        began = time.perf_counter()
        self._checkpointer.save(
            self._step,
            lambda: TrainingState(step=self._step, model=weights, optimizer=momentum),
            accuracy=None,
        )
        pause = time.perf_counter() - began
        self._committed.wait()
        assert self._record is not None
        if self._record.error is not None:
            raise RuntimeError(self._record.error)
        return pause, self._record.commit_s

    def close(self) -> None:
        self._checkpointer.close()


@contextmanager
def _peak_memory() -> Iterator[list[Any]]:
    """Peak resident memory minus that at the start, in bytes, sampled every 2 ms."""
    process, over = psutil.Process(), threading.Event()
    before, peak = process.memory_info().rss, [0]

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
