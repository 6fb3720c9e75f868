"""The records that the engine passes to the monitors. Plain values; does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class LayerAttention:
    """One dynamic layer's attention over the images of one step.

    `entropy`: mean over images, divided by log K: 1 for equal weights, 0 for a single kernel. `share`, `spread`: each
    kernel's mean weight, and its standard deviation over images. `dead`: kernels whose mean weight is below a
    twentieth of an equal share. `similarity`: mean cosine similarity of the K kernels; 1 if they are equal, NaN if K
    is 1.
    """

    entropy: float
    share: tuple[float, ...]
    spread: tuple[float, ...]
    dead: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One logged training step; sums and means are over the global batch.

    `step` counts finished optimizer steps (1 after the first); `epoch` is the epoch of that step, from 0; `accuracy`
    is a fraction; times are seconds since the last logged step, per step on average.
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
    """More values by TensorBoard tag (docs/tensorboard.md lists them)."""
    attention: Mapping[str, LayerAttention] = field(default_factory=dict)
    """By layer name, in the network's order."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One pass over a split: every image once. `accuracy` is a fraction, `loss` the mean cross-entropy.

    `split`: validation or test. Runs with a validation split are evaluated on the test split only at their end.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    images: int
    seconds: float
    ema: bool = False
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class ImagesRecord:
    """Images to display: uint8 [N, 3, H, W], with a caption each or none."""

    step: int
    tag: str
    images: Any
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConfusionRecord:
    """The confusion matrix of an evaluation: `counts[true][predicted]`. `top5` is a fraction; `split` as above."""

    step: int
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    top5: float
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class HistogramsRecord:
    """Histograms by tag: bin edges (float64 [B+1]) and counts ([B])."""

    step: int
    histograms: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class GraphRecord:
    """The network's graph, a serialised TensorFlow GraphDef."""

    graph: bytes


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """A text about the whole run, in Markdown."""

    tag: str
    text: str


Detail = ImagesRecord | ConfusionRecord | HistogramsRecord | GraphRecord | TextRecord


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A committed or failed save. `pause_s`: seconds for which the loop was blocked; `error`: None if committed."""

    step: int
    url: str
    bytes: int
    pause_s: float
    commit_s: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The summary printed at the end. `state` is done, stopped or failed.

    `best_accuracy` and `last_accuracy` are of `split`; `test_accuracy` is that of the finished run, if `split` is
    validation.
    """

    state: str
    step: int
    total_steps: int
    best_accuracy: float | None
    last_accuracy: float | None
    seconds: float
    places: Mapping[str, str]
    message: str = ""
    split: str = "test"
    test_accuracy: float | None = None


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

    `logged`: whether this step is logged. Other steps cost next to nothing.
    """

    def before_step(self, step: int, *, logged: bool) -> None: ...

    def after_step(self, step: int, images: Any, *, logged: bool, data_wait_s: float) -> None:
        """`images`: this process's, normalised, float32 [n, 3, H, W]; None if it had none."""
        ...

    def read(self, step: int) -> tuple[Mapping[str, float], Mapping[str, LayerAttention]]:
        """`extra` and `attention` for a logged step's record. Waits for the device."""
        ...

    def begin_evaluation(self) -> Callable[[Any, Any], None] | None:
        """A function that receives the logits and labels of each block, or None to measure nothing."""
        ...

    def end_evaluation(self, step: int) -> None: ...
