"""The interface between the training loop and the engines DDP, exact and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dydist.data.loader import StepBatch


@dataclass(frozen=True)
class Votes:
    """What this process requests at the next step boundary. One process's request is enough."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class StepSums:
    """A step's sums over the global batch, the same on every process.

    `loss`: mean loss. `accuracy`: fraction of correct images (by the labels before mixing). `stop`, `save`:
    whether any process voted so. `data_hash`: a hash of the images and labels of all shards.
    """

    loss: float
    accuracy: float
    stop: bool
    save: bool
    data_hash: int


class Engine(Protocol):
    """Trains one model. All methods are called by all processes at the same step."""

    model: nn.Module
    """The network, with plain parameter names, for evaluation."""

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """Take one step. Returns a function that waits for the step's sums; it may be called one step later."""
        ...

    def set_temperature(self, temperature: float) -> None:
        """Set the attention's temperature, as `train_step` does; for an evaluation before any step."""
        ...

    def grad_norm(self) -> float:
        """L2 norm of the last step's global gradient, before clipping."""
        ...

    def model_state(self) -> dict[str, Tensor]:
        """All parameters and buffers, as full tensors by plain name."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """`momentum.<parameter>` of every parameter, as full tensors."""
        ...

    def averaged_state(self) -> dict[str, Tensor] | None:
        """The moving average of the weights by plain name, or None if `train.ema_decay` is not set."""
        ...

    def extra_state(self) -> dict[str, float]:
        """State besides the tensors: the loss scale of fp16."""
        ...

    def load(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        averaged: Mapping[str, Tensor],
        extra: Mapping[str, float],
    ) -> None:
        """Load a state saved by any engine on any number of processes.

        An empty `optimizer` means zero momentum, an empty `averaged` starts the average at the weights.
        """
        ...
