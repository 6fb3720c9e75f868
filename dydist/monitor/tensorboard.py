"""The run in TensorBoard."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from dydist.monitor.text import wait_share
from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord


class TensorBoard:
    """Scalars of every record. `start` at a resume tells TensorBoard to forget what lies past its step."""

    def __init__(self, logdir: str, *, config_text: str = "") -> None:
        self._logdir = logdir
        self._config_text = config_text
        self._writer: SummaryWriter | None = None
        self._step = 0

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._step = step
        self._writer = SummaryWriter(self._logdir, purge_step=step + 1, flush_secs=10)
        if self._config_text:
            indented = "\n".join(f"    {line}" for line in self._config_text.splitlines())
            self._writer.add_text("config", indented, step)

    def step(self, record: StepRecord) -> None:
        self._step = record.step
        scalars = {
            "loss/train": record.loss,
            "accuracy/train": record.accuracy,
            "schedule/lr": record.lr,
            "schedule/temperature": record.temperature,
            "speed/images_per_s": record.images_per_s,
            "speed/step_s": record.step_s,
            "speed/data_wait_share": wait_share(record),
            **record.extra,
        }
        if record.grad_norm is not None:
            scalars["optim/grad_norm"] = record.grad_norm
        self._scalars(scalars, record.step)

    def evaluation(self, record: EvaluationRecord) -> None:
        suffix = "_ema" if record.ema else ""
        self._scalars(
            {f"loss/test{suffix}": record.loss, f"accuracy/test{suffix}": record.accuracy}, record.step
        )

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is None:
            self._scalars(
                {
                    "checkpoint/pause_s": record.pause_s,
                    "checkpoint/commit_s": record.commit_s,
                    "checkpoint/bytes": float(record.bytes),
                },
                record.step,
            )
        else:
            self.note(f"step {record.step}: {record.error}", level="warning")

    def note(self, text: str, *, level: str = "info") -> None:
        if self._writer is not None and level != "info":
            self._writer.add_text(f"notes/{level}", text, self._step)

    def close(self, summary: RunSummary) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalars(self, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)
