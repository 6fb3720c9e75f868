"""Alerts about typical problems, derived from the records; each problem is reported once."""

from __future__ import annotations

import math
import shutil
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs.text import size, wait_share
from dydist.records import CheckpointRecord, StepRecord

EXPLODING = 3.0
"""The loss counts as exploded above this multiple of the median loss of the last logged steps."""
COLLAPSED_SHARE = 0.95
WAITING_SHARE = 0.10
DISK_LEAST_BYTES = 2 << 30
_REMEMBERED, _ENOUGH = 20, 5


class Alerts(NullMonitor):
    """Checks each record. A problem is reported after `_PATIENCE` records, and again only after it ended."""

    _PATIENCE = 2

    def __init__(
        self,
        tell: Callable[[str, str], None],
        *,
        folder: Path,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """`tell(text, level)` passes an alert to all monitors. `folder`: its disk's free space is watched."""
        self._tell, self._folder, self._free_bytes = tell, folder, free_bytes
        self._losses: deque[float] = deque(maxlen=_REMEMBERED)
        self._speeds: deque[float] = deque(maxlen=_REMEMBERED)
        self._lasting: dict[str, int] = {}
        self._saved: int | None = None

    def step(self, record: StepRecord) -> None:
        loss, speed = record.loss, record.images_per_s
        if not math.isfinite(loss):
            self._judge("loss", True, f"step {record.step}: the loss is {loss}", level="error", patience=1)
        else:
            usual = _usual(self._losses)
            self._judge(
                "loss",
                usual is not None and loss > EXPLODING * usual,
                f"step {record.step}: the loss exploded: {loss:.4g}, the median before was {usual or 0:.4g}; "
                "try a lower optim.lr, optim.warmup_epochs or train.clip_norm",
            )
            self._losses.append(loss)
        usual = _usual(self._speeds)
        slow = usual is not None and speed < usual / 2
        self._judge("speed", slow, f"throughput fell by half: {speed:.0f} images/s, before {usual or 0:.0f}")
        if not slow:
            self._speeds.append(speed)
        share = wait_share(record)
        waits = f"waiting for data {share:.0%} of the time; give parallel.threads or the disk more, or augment less"
        self._judge("data", share > WAITING_SHARE, waits)
        collapsed = [n for n, layer in record.attention.items() if max(layer.share) > COLLAPSED_SHARE]
        collapsed = [n for n in collapsed if len(record.attention[n].share) > 1]
        self._judge(
            "attention",
            bool(collapsed),
            f"attention collapsed to one kernel in {', '.join(collapsed)}; "
            "try a higher temperature.start or longer temperature.epochs",
        )
        free = self._free_bytes(self._folder)
        full = (
            f"the disk of {self._folder} is filling: {size(free)} left; free some, or lower checkpoint.keep"
        )
        self._judge("disk", free < DISK_LEAST_BYTES, full, patience=1)

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is None:
            self._saved = record.step
        newest = "none in this session" if self._saved is None else f"step {self._saved}"
        text = f"{record.url} keeps failing: {record.error}; newest checkpoint: {newest}; training goes on"
        self._judge("store", record.error is not None, text)

    def _judge(
        self, trouble: str, there: bool, text: str, *, level: str = "warning", patience: int = _PATIENCE
    ) -> None:
        lasted = self._lasting.get(trouble, 0) + 1 if there else 0
        self._lasting[trouble] = lasted
        if lasted == patience:
            self._tell(text, level)


def _usual(values: deque[float]) -> float | None:
    return statistics.median(values) if len(values) >= _ENOUGH else None
