"""Learning rate and temperature as pure functions of the step.

Schedules have no state and count no calls, so they cannot advance N times too fast on N processes, and a resumed run
needs only its step. `step` counts from 0 and is the step about to be taken.
"""

from __future__ import annotations

import math

from dydist.config import OptimConfig, TemperatureConfig


def learning_rate(optim: OptimConfig, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of one step.

    Warm-up is linear over `warmup_epochs` and ends at `lr`; then either steps down by `gamma` at each of
    `milestones` (fractions of `epochs`), or follows half a cosine down to `lr_end`
    (Loshchilov & Hutter, SGDR, arXiv:1608.03983, eq. 5 without restarts).
    """
    total = steps_per_epoch * epochs
    warmup = optim.warmup_epochs * steps_per_epoch
    if step < warmup:
        return optim.lr * (step + 1) / math.ceil(warmup)
    if optim.schedule == "milestones":
        passed = sum(step >= round(milestone * total) for milestone in optim.milestones)
        return optim.lr * optim.gamma**passed
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    if optim.schedule == "cosine":
        return optim.lr_end + (optim.lr - optim.lr_end) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return optim.lr + (optim.lr_end - optim.lr) * progress


def temperature(schedule: TemperatureConfig, *, step: int, steps_per_epoch: int) -> float:
    """The softmax temperature of one step: linear from `start` to `end` over `epochs`, then held at `end`.

    `per="epoch"` changes it at epoch boundaries, as the original does (Chen et al., Dynamic Convolution,
    CVPR 2020, arXiv:1912.03458, section 3.3: 30 → 1 over the first ten epochs); `per="step"` moves every step.
    """
    length = schedule.epochs * steps_per_epoch
    position = step if schedule.per == "step" else step // steps_per_epoch * steps_per_epoch
    if position >= length:
        return schedule.end
    return schedule.start + (schedule.end - schedule.start) * position / length


def evaluation_temperature(schedule: TemperatureConfig, *, step: int, steps_per_epoch: int) -> float:
    """The temperature of every evaluation after `step` finished steps: that of the last step taken."""
    return temperature(schedule, step=max(0, step - 1), steps_per_epoch=steps_per_epoch)
