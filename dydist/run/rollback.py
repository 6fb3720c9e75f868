"""The checkpoint to which a diverged run can go back: the last one saved before its loss rose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from dydist.monitor.outputs.jsonlines import read_lines

NEVER_IN_ORDER = 50.0
"""Nats. A mean cross-entropy above this limit always counts as diverged."""
RISE = 4.0
"""A loss above the first one and above this multiple of the lowest has diverged, unless it falls again."""

Losses = Sequence[tuple[int, float]]
"""(number of finished steps, mean loss of the weights after them), by ascending step."""


def find_rise(losses: Losses) -> tuple[int | None, int | None]:
    """The last step with a normal loss, and the first later step with a raised one; each None if there is none.

    A loss that rose and fell again is normal.
    """
    calm, wild = None, None
    first = next((loss for _, loss in losses if math.isfinite(loss)), math.inf)
    lowest = math.inf
    for step, loss in losses:
        limit = NEVER_IN_ORDER if lowest == math.inf else min(NEVER_IN_ORDER, max(first, RISE * lowest))
        if loss <= limit:  # false for NaN
            calm, wild = step, None
            lowest = min(lowest, loss)
        elif wild is None:
            wild = step
    return calm, wild


def last_good(held: Iterable[int], *series: Losses) -> tuple[int | None, int]:
    """The newest of the checkpoints `held` that was saved before the loss rose, and the last step with a normal loss.

    `series`: losses of the same run, such as training and test. If none of them rose, every checkpoint qualifies.
    """
    rises = [find_rise(losses) for losses in series if losses]
    wild = min((first for _, first in rises if first is not None), default=None)
    calm = max((last for last, _ in rises if last is not None and (wild is None or last < wild)), default=0)
    return max((step for step in held if wild is None or step <= calm), default=None), calm


def advice(held: Sequence[int], good: int | None, calm: int) -> str:
    """What to do after a divergence: a sentence that follows the error's. `good`, `calm`: see `last_good`."""
    if not held:
        return "There is no checkpoint yet: the next start begins at step 0"
    if good == max(held):
        return f"The newest checkpoint, step {good}, is from before that: the next start goes on from it"
    late = sorted(step for step in held if good is None or step > good)
    saved = f"the checkpoint{'s' * (len(late) > 1)} of step {', '.join(map(str, late))}"
    saved = f"The loss was last normal at step {calm}, before {saved}"
    if good is None:
        return f"{saved}, and no earlier one is kept: start over with --checkpoint.resume=never"
    return f"{saved}: go back to step {good} with --checkpoint.resume={good}"


def rollback_advice(run_dir: Path, held: Sequence[int], recent: Losses) -> str:
    """`advice` from a run folder's metrics.jsonl. `held`: the steps that have a checkpoint.

    `recent`: training losses by step, logged or not; the loss of a step is measured with the weights of the step
    before.
    """
    training, tests = dict(recent), dict[int, float]()
    for line in read_lines(run_dir / "metrics.jsonl"):
        if "loss" in line and not line.get("ema"):
            loss = math.inf if line["loss"] is None else line["loss"]
            (training if line["kind"] == "step" else tests)[line["step"]] = loss
    before = sorted((step - 1, loss) for step, loss in training.items())
    good, calm = last_good(held, before, sorted(tests.items()))
    return advice(held, good, calm)
