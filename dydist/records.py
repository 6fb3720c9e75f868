"""What a run tells about itself: written by the engine, read by the monitors. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class LayerAttention:
    """One dynamic layer's attention over the images of one step.

    `entropy`: mean over images, divided by log K: 1 is all kernels alike, 0 is one alone.
    `share`, `spread`: each kernel's mean weight, and its standard deviation over images.
    `dead`: kernels whose mean weight is below a twentieth of an equal share.
    `similarity`: mean cosine between the K kernels; 1 is K times the same one. NaN where K is 1.
    """

    entropy: float
    share: tuple[float, ...]
    spread: tuple[float, ...]
    dead: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One logged training step; sums and means are over the global batch.

    `step` counts finished optimiser steps (1 after the first); `epoch` is the epoch of that step, from 0;
    `accuracy` is a fraction; times are seconds since the last logged step, per step on average.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    temperature: float
    images_per_s: float
    data_wait_s: float = 0.0
    step_s: float = 0.0
    grad_norm: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further figures by TensorBoard tag (docs/tensorboard.md lists them)."""
    attention: Mapping[str, LayerAttention] = field(default_factory=dict)
    """By the layer's name, in the network's order."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One pass over the test split: every image once. `accuracy` is a fraction, `loss` the mean cross-entropy."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    images: int
    seconds: float
    ema: bool = False


@dataclass(frozen=True, kw_only=True)
class ImagesRecord:
    """Pictures to look at: uint8 [N, 3, H, W], a caption each or none."""

    step: int
    tag: str
    images: Any
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConfusionRecord:
    """Which class was taken for which in an evaluation: `counts[true][predicted]`. `top5` is a fraction."""

    step: int
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    top5: float


@dataclass(frozen=True, kw_only=True)
class HistogramsRecord:
    """Distributions by tag: edges of the bins (float64 [B+1]) and how many values fell into each ([B])."""

    step: int
    histograms: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """The network's graph, a serialised TensorFlow GraphDef."""

    graph: bytes


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """Something of the whole run to read, in Markdown."""

    tag: str
    text: str


Detail = ImagesRecord | ConfusionRecord | HistogramsRecord | GraphRecord | TextRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A finished or failed save. `pause_s`: how long the loop stood still; `error` is None when committed."""

    step: int
    url: str
    bytes: int
    pause_s: float
    commit_s: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What is printed at the end. `state` is done, stopped or failed."""

    state: str
    step: int
    total_steps: int
    best_accuracy: float | None
    last_accuracy: float | None
    seconds: float
    places: Mapping[str, str]
    message: str = ""


class Monitor(Protocol):
    """Receives a run's records on process 0. None of its methods may raise for a reason outside the run."""

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None: ...

    def step(self, record: StepRecord) -> None: ...

    def evaluation(self, record: EvaluationRecord) -> None: ...

    def checkpoint(self, record: CheckpointRecord) -> None: ...

    def detail(self, record: Detail) -> None: ...

    def note(self, text: str, *, level: str = "info") -> None: ...

    def close(self, summary: RunSummary) -> None: ...


class Probe(Protocol):
    """Measures inside the loop, on every process; all methods are called by all processes at the same step.

    `logged`: whether a line is due after this step. Costs next to nothing at the other steps.
    """

    def before_step(self, step: int, *, logged: bool) -> None: ...

    def after_step(self, step: int, images: Any, *, logged: bool, data_wait_s: float) -> None:
        """`images`: this process's, normalised, float32 [n, 3, H, W]; None where it had none."""
        ...

    def read(self, step: int) -> tuple[Mapping[str, float], Mapping[str, LayerAttention]]:
        """What a logged step's record gains: `extra` and `attention`. Waits for the device."""
        ...

    def begin_evaluation(self) -> Callable[[Any, Any], None] | None:
        """What sees each block's logits and labels, where this evaluation is looked at closely."""
        ...

    def end_evaluation(self, step: int) -> None: ...
