"""The loss scale for fp16, with the same values in all engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossScale:
    """The scale by the rule and the constants of `torch.amp.GradScaler`; equal on all processes.

    It scales the loss of the global batch, independent of the world size: if gradients are averaged over N processes,
    each process's loss is multiplied by N, which `per_process` compensates. A step near fp16's maximum may still
    overflow on some world sizes only, since each process sums its images' gradients in fp16.
    """

    scale: float = 65536.0
    growth: int = 0
    growth_interval: int = 2000

    def update(self, overflow: bool) -> None:
        """Halve after an overflow; double after `growth_interval` steps without one."""
        self.growth = 0 if overflow else self.growth + 1
        if overflow:
            self.scale *= 0.5
        elif self.growth == self.growth_interval:
            self.scale, self.growth = self.scale * 2, 0

    def per_process(self, averaged_over: int) -> float:
        """The scale for a loss that is already multiplied by `averaged_over`."""
        return self.scale / averaged_over
