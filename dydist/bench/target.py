"""The device and precision of a benchmark."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dydist.engine.core import AUTOCAST
from dydist.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]
ON_GPU = 10
"""Passes per turn on a GPU, queued as in training; a single pass would measure kernel launches."""


@dataclass(frozen=True)
class Target:
    """A device type, autocast's precision (fp32: no autocast, but TF32 on a GPU, as with reduce=fast), and
    torch.compile's mode."""

    device: str = "cpu"
    precision: Precision = "fp32"
    compile: Compile = "off"

    @classmethod
    def of(cls, device: str, precision: Precision, compile: Compile = "off") -> Target:
        """From a user's options; `auto` is the GPU if there is one. Raises UserError if the GPU is missing."""
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise UserError(
                "--device: cuda is not there; use cpu or auto, or check the driver with nvidia-smi"
            )
        if device == "auto":
            device = "cuda" if there else "cpu"
        return cls(device, precision, compile)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU, on which work is asynchronous."""
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return AUTOCAST.get(self.precision, torch.float32)

    @property
    def repeat(self) -> int:
        """Passes per turn."""
        return ON_GPU if self.on_gpu else 1

    def clock(self) -> float:
        """Synchronize with the device; returns the time in seconds."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        return torch.autocast(self.device, self.dtype, enabled=self.precision in AUTOCAST)

    def ready(self, model: nn.Module) -> nn.Module:
        """Move the network to the device; compile it at its first pass if configured."""
        model.to(self.device)
        if self.compile != "off":
            model.compile(mode=self.compile)
        return model
