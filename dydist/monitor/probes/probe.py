"""The probe, one per process: combines all measurements inside the loop."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.dataset import ImageDataset
from dydist.monitor.probes.attention import AttentionStatistics
from dydist.monitor.probes.evaluation import EvaluationStatistics
from dydist.monitor.probes.graph import module_graph
from dydist.monitor.probes.profiling import StepProfiler, profile_range
from dydist.monitor.probes.stragglers import StragglerWatch
from dydist.monitor.probes.timing import FIELDS, StepTimer, process_figures
from dydist.monitor.probes.weights import WeightStatistics, histograms
from dydist.records import (
    ConfusionRecord,
    GraphRecord,
    HistogramsRecord,
    ImagesRecord,
    LayerAttention,
    Monitor,
)

SHOWN_IMAGES = 32


class Processes(Protocol):
    """The processes of a run, as seen from one of them; implemented by `dydist.engine.World`."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def gather(self, value: Any, /) -> list[Any]:
        """Every process's value, by rank, on every process (a collective)."""
        ...


class RunProbe:
    """Statistics of attention, weights, times and memory at logged steps; images, graph, profile. See `Probe`.

    At a logged step, all processes add their sums in one small collective; only process 0 examines the weights, which
    are equal on all. Nothing synchronizes with the device before `read`.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        world: Processes,
        *,
        evaluated: ImageDataset,
        run_dir: Path,
        monitor: Monitor,
    ) -> None:
        self._config, self._model, self._monitor = config, model, monitor
        self._rank, self._size, self._device, self._gather = (
            world.rank,
            world.size,
            world.device,
            world.gather,
        )
        self._evaluated = evaluated
        # registering and removing hooks would recompile a compiled network each time
        self._attention = AttentionStatistics(nn.Identity() if config.train.compile else model)
        # with ZeRO-3 a process holds partitions of the weights; gathering full ones is a collective
        sharded = config.parallel.zero == 3
        self._weights = WeightStatistics(nn.Identity() if sharded else model)
        self._timer = StepTimer(model, world.device)
        self._process = psutil.Process(os.getpid())
        self._profiler: StepProfiler | None = None
        if config.train.profile is not None and world.rank == 0:
            first, last = profile_range(config.train.profile)
            self._profiler = StepProfiler(first, last, run_dir / "profile", tell=monitor.note)
        self._waiting: dict[int, tuple[Any, Tensor, Tensor | None]] = {}
        self._evaluation: EvaluationStatistics | None = None
        self._images_due = True
        self._step = 0
        self._graph_due = world.rank == 0 and not sharded
        if sharded:
            monitor.note(
                "With parallel.zero=3 no process holds whole weights: no weight norms, update ratio, "
                "similarity of kernels, histograms or model graph are shown."
            )
        self._stragglers = StragglerWatch(world.gather(socket.gethostname()))

    def before_step(self, step: int, *, logged: bool) -> None:
        if self._graph_due:
            self._graph_due = False
            self._show_graph()
        if self._profiler is not None:
            self._profiler.before_step(step)
        if self._device.type == "cuda":
            torch.cuda.nvtx.range_push(f"step {step}")
        if logged:
            self._attention.begin()
            if self._rank == 0:
                self._weights.begin()
        self._timer.begin()

    def after_step(self, step: int, images: Tensor | None, *, logged: bool, data_wait_s: float) -> None:
        self._step = step
        self._timer.end(data_wait_s)
        if self._device.type == "cuda":
            torch.cuda.nvtx.range_pop()
        if self._profiler is not None:
            self._profiler.after_step(step)
        if logged:
            self._measure(step)
            if self._rank == 0 and images is not None and self._images_due:
                self._show_images(step, images)
        every = self._config.monitor.histograms_every_steps
        if self._rank == 0 and every and step % every == 0 and self._config.parallel.zero < 3:
            self._monitor.detail(HistogramsRecord(step=step, histograms=histograms(self._model)))

    def read(self, step: int) -> tuple[Mapping[str, float], Mapping[str, LayerAttention]]:
        if step not in self._waiting:
            return {}, {}
        work, sums, weights = self._waiting.pop(step)
        if work is not None:
            work.wait()
        values = sums.tolist()
        if weights is None:
            return {}, {}
        figures = weights.tolist()
        names = self._attention.names
        similarity = (figures[2:] or [math.nan] * len(names)) if names else []
        attention = self._attention.summarise(values[: self._attention.size], similarity)
        times = _rows(values[self._attention.size :], len(FIELDS))
        if (slow := self._stragglers.update([row[0] for row in times])) is not None:
            self._monitor.note(slow, level="warning")
        extra = {
            **dict(zip(("optim/weight_norm", "optim/update_ratio"), figures, strict=False)),
            **process_figures(times),
            **self._timer.percentiles(),
            **self._memory(),
        }
        if attention:
            extra["attention/entropy"] = float(np.mean([layer.entropy for layer in attention.values()]))
            extra["attention/dead_kernels"] = float(sum(layer.dead for layer in attention.values()))
        return extra, attention

    def begin_evaluation(self) -> Callable[[Tensor, Tensor], None]:
        self._timer.pause()
        self._evaluation = EvaluationStatistics(
            rank=self._rank,
            size=self._size,
            block=self._config.train.eval_batch_size,
            classes=len(self._evaluated.classes),
            device=self._device,
        )
        return self._evaluation.observe

    def end_evaluation(self, step: int) -> None:
        if self._evaluation is None:
            return
        counts, top5, mistakes = self._evaluation.finish(self._gather)
        self._evaluation = None
        self._images_due = True
        if self._rank != 0:
            return
        classes = self._evaluated.classes
        table, split = tuple(map(tuple, counts)), self._config.data.evaluated_split
        self._monitor.detail(
            ConfusionRecord(step=step, classes=classes, counts=table, top5=top5, split=split)
        )
        if mistakes:
            captions = tuple(
                f"{classes[m.label][:10]}\nas {classes[m.predicted][:10]}\n{m.confidence:.0%}"
                for m in mistakes
            )
            images = self._evaluated.images[[m.index for m in mistakes]]
            self._monitor.detail(
                ImagesRecord(step=step, tag="images/confident_mistakes", images=images, captions=captions)
            )

    def close(self) -> None:
        """Remove all hooks, and write a profile if the run ends within its range."""
        self._timer.close()
        if self._profiler is not None:
            self._profiler.close(self._step)

    def _measure(self, step: int) -> None:
        own = torch.zeros(self._size, len(FIELDS))
        own[self._rank] = torch.tensor(self._timer.window())
        sums = torch.cat(
            [self._attention.end(self._device), own.flatten().to(self._device, non_blocking=True)]
        )
        work = dist.all_reduce(sums, async_op=True) if self._size > 1 else None
        self._waiting[step] = (work, sums, self._weights.end() if self._rank == 0 else None)

    def _memory(self) -> dict[str, float]:
        figures = {"memory/process_bytes": float(self._process.memory_info().rss)}
        if self._device.type == "cuda":
            figures["memory/gpu_peak_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
        return figures

    def _show_images(self, step: int, images: Tensor) -> None:
        self._images_due = False
        shown = images[:SHOWN_IMAGES].detach().float().cpu().numpy()
        mean, std = (np.reshape(v, (1, -1, 1, 1)) for v in (self._evaluated.mean, self._evaluated.std))
        pixels = np.rint(np.clip(shown * std + mean, 0, 1) * 255).astype(np.uint8)
        self._monitor.detail(ImagesRecord(step=step, tag="images/input", images=pixels))

    def _show_graph(self) -> None:
        try:
            graph = module_graph(self._model)
        except Exception as error:  # torch.fx raises many types; the run does not need the graph
            self._monitor.note(f"no model graph: {error!r}")
        else:
            self._monitor.detail(GraphRecord(graph=graph))


def _rows(values: Sequence[float], width: int) -> list[Sequence[float]]:
    return [values[start : start + width] for start in range(0, len(values), width)]
