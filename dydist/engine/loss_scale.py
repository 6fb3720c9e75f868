"""fp16's loss scale: the one value that all engines start from, save, and go on with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LossScale:
    """The scale by the rule and the constants of `torch.amp.GradScaler`: one value on all processes.

    It multiplies the loss of the global batch, whatever the number of processes: where gradients are averaged
    over N processes, each one's loss counts N times and `per_process` takes that back. Near fp16's largest number a
    step may still overflow on one world size alone, as each process sums the gradients of its own images in fp16.
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
        """What a loss is multiplied with that counts `averaged_over` times already."""
        return self.scale / averaged_over
