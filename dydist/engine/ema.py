"""An exponential moving average of weights and batch-norm statistics, evaluated in addition to the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedWeights:
    """average ← decay · average + (1 − decay) · weight, after every step, for all floating-point tensors."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a saved average."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's current weights."""
        now = self._model.state_dict()
        floats = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.state[n] for n in floats], [now[n] for n in floats], 1 - self.decay)
        counts = [name for name, tensor in self.state.items() if not tensor.is_floating_point()]
        if counts:
            torch._foreach_copy_([self.state[n] for n in counts], [now[n] for n in counts])
