"""On what a benchmark of speed computes, and in what precision."""

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
"""Passes of a turn on a GPU, one behind the other as in training: of a single one its launch would be measured."""


@dataclass(frozen=True)
class Place:
    """A device type, autocast's precision (fp32: none; a GPU multiplies in TF32, as in a run with reduce=fast), and
    torch.compile's mode."""

    device: str = "cpu"
    precision: Precision = "fp32"
    compile: Compile = "off"

    @classmethod
    def of(cls, device: str, precision: Precision, compile: Compile = "off") -> Place:
        """The place a user asks for; `auto` is the GPU where there is one. Raises UserError where one is missing."""
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
        """Whether work is queued, and done later."""
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What a pass computes in."""
        return AUTOCAST.get(self.precision, torch.float32)

    @property
    def repeat(self) -> int:
        """Passes of one turn."""
        return ON_GPU if self.on_gpu else 1

    def clock(self) -> float:
        """Seconds, when all that was queued is done."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self) -> AbstractContextManager[None]:
        """What a forward pass runs in."""
        return torch.autocast(self.device, self.dtype, enabled=self.precision in AUTOCAST)

    def ready(self, model: nn.Module) -> nn.Module:
        """The network on the device, compiled at its first pass where that is asked for."""
        model.to(self.device)
        if self.compile != "off":
            model.compile(mode=self.compile)
        return model
