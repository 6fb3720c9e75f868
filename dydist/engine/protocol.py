"""What the training loop asks of an engine, and what a step hands back. DDP, exact and DeepSpeed all fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dydist.data.loader import StepBatch


@dataclass(frozen=True)
class Votes:
    """What this process would like to happen at the next step boundary. One process asking is enough."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class StepSums:
    """A step's sums over the global batch, the same on every process.

    `loss`: mean cross-entropy. `accuracy`: fraction right (against the labels before mixing).
    `stop`, `save`: whether any process voted so. `data_hash`: names the images and labels that all shards got.
    """

    loss: float
    accuracy: float
    stop: bool
    save: bool
    data_hash: int


class Engine(Protocol):
    """Trains one model. All methods are called by all processes at the same step."""

    model: nn.Module
    """The network with plain parameter names, for evaluation."""

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """Take one step. The result waits for the step's sums, and may be called a step later."""
        ...

    def set_temperature(self, temperature: float) -> None:
        """Give the attention this softmax temperature, as `train_step` does; for an evaluation before any step."""
        ...

    def grad_norm(self) -> float:
        """2-norm of the last step's global gradient, before clipping."""
        ...

    def model_state(self) -> dict[str, Tensor]:
        """All parameters and buffers, whole, by plain name."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """`momentum.<parameter>` for every parameter, whole."""
        ...

    def averaged_state(self) -> dict[str, Tensor] | None:
        """The moving average of the weights by plain name, or None where `train.ema_decay` is not set."""
        ...

    def extra_state(self) -> dict[str, float]:
        """Numbers beside the tensors: the loss scale of fp16."""
        ...

    def load(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        averaged: Mapping[str, Tensor],
        extra: Mapping[str, float],
    ) -> None:
        """Take over a state written by any engine on any number of processes.

        An empty `optimizer` starts with no momentum, an empty `averaged` from the weights.
        """
        ...
