"""The parts of a training step's time, by hooks on network and optimizer (CPU only: nothing is asynchronous)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@dataclass
class Step:
    """Time stamps of one step, in seconds of one clock."""

    forward: float
    forward_end: float = 0.0
    backward: float = 0.0
    backward_end: float = 0.0
    update: float = 0.0
    update_end: float = 0.0

    @property
    def arithmetic(self) -> dict[str, float]:
        """Seconds of forward, backward (up to this process's last gradient) and optimizer."""
        return {
            "forward": self.forward_end - self.forward,
            "backward": self.backward_end - self.backward,
            "optimiser": self.update_end - self.update,
        }

    @property
    def collective_wait(self) -> float:
        """Seconds from this process's last gradient to the optimizer step: the wait for other processes."""
        return self.update - self.backward_end


class StepParts:
    """Records the time stamps of every training step of `model`. `close` removes the hooks.

    The backward pass ends with the gradient of the first parameter, which is computed last.
    """

    def __init__(self, model: nn.Module, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps: list[Step] = []
        self._clock = clock
        self._hooks = [
            model.register_forward_pre_hook(lambda module, _: self._begin(module)),
            model.register_forward_hook(lambda module, _, output: self._end_forward(module, output)),
            next(model.parameters()).register_post_accumulate_grad_hook(lambda _: self._mark("backward_end")),
            register_optimizer_step_pre_hook(lambda *_: self._mark("update")),
            register_optimizer_step_post_hook(lambda *_: self._mark("update_end")),
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module) -> None:
        if module.training:  # not an evaluation
            self.steps.append(Step(self._clock()))

    def _end_forward(self, module: nn.Module, logits: Tensor) -> None:
        if module.training:
            self._mark("forward_end")
            logits.register_hook(lambda _: self._mark("backward"))

    def _mark(self, name: str) -> None:
        if self.steps:
            setattr(self.steps[-1], name, self._clock())
