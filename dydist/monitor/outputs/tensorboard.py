"""The TensorBoard log of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from torch.utils.tensorboard.summary import text as text_summary

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs import layout
from dydist.monitor.outputs.eventlog import EventLog
from dydist.monitor.outputs.images import grid, image_value, table
from dydist.monitor.outputs.jsonlines import read_lines
from dydist.monitor.outputs.shipping import Shipper
from dydist.monitor.outputs.text import wait_share
from dydist.records import (
    CheckpointRecord,
    ConfusionRecord,
    Detail,
    EvaluationRecord,
    GraphRecord,
    HistogramsRecord,
    ImagesRecord,
    RunSummary,
    StepRecord,
    TextRecord,
)
from dydist.storage.places import is_url, local_path
from dydist.text.display import markdown

_HEAT_MAP_COLUMNS = 400
_NOT_CURVES = ("data_hash", "ranks/slowest")
"""Extra values that are not useful as curves."""


class TensorBoard(NullMonitor):
    """Writes every record to TensorBoard; docs/tensorboard.md lists the tags.

    Events are written to `folder`, and uploaded to `url`, if given, in segments. On a resume, `start` makes
    TensorBoard discard events after its step. `run_dir`: the folder of metrics.jsonl, which has the earlier values.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_dir: Path,
        config_text: str = "",
        hyper_parameters: Mapping[str, Any] | None = None,
        url: str | None = None,
        options: Mapping[str, Any] | None = None,
        tell: Callable[[str, str], None] = lambda text, level: None,
        world_size: int = 1,
    ) -> None:
        self._folder, self._run_dir = folder, run_dir
        self._config_text, self._hyper_parameters = config_text, hyper_parameters or {}
        self._split = "test" if self._hyper_parameters.get("data.validation") is None else "validation"
        self._url, self._options, self._tell = url, options or {}, tell
        self._world_size = world_size
        self._log: EventLog | None = None
        self._shipper: Shipper | None = None
        self._step = 0
        self._fresh = True
        self._texts: list[TextRecord] = []
        """Texts received before the log was opened."""
        self._shares: list[dict[str, list[float]]] = []
        """Mean shares by layer of every logged step: the columns of the heat map."""

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._step = step
        self._fresh = step == 0
        self._log = EventLog(self._folder, purge_step=step + 1)
        if self._url is not None:
            self._shipper = Shipper(self._folder, self._url, options=self._options)
        self._log.add(layout.charts(), step)
        if self._config_text:
            self._log.add(layout.configuration(self._config_text), step)
        for summary in layout.hyper_parameters(self._hyper_parameters, split=self._split):
            self._log.add(summary, step)
        for record in self._texts:
            self._log.add(text_summary(record.tag, record.text), step)
        self._shares = [
            {name: layer["share"] for name, layer in line["attention"].items()}
            for line in read_lines(self._run_dir / "metrics.jsonl")
            if line.get("attention") and line["step"] <= step
        ]

    def step(self, record: StepRecord) -> None:
        self._step = record.step
        self._tell_messages()
        scalars = {
            "loss/train": record.loss,
            "accuracy/train": record.accuracy,
            "schedule/lr": record.lr,
            "schedule/temperature": record.temperature,
            "schedule/epoch": float(record.epoch),
            "speed/images_per_s": record.images_per_s,
            "speed/images_per_s_per_process": record.images_per_s / self._world_size,
            "speed/step_s": record.step_s,
            "speed/data_wait_s": record.data_wait_s,
            "speed/data_wait_share": wait_share(record),
            **{tag: value for tag, value in record.extra.items() if tag not in _NOT_CURVES},
        }
        if record.grad_norm is not None:
            scalars["optim/grad_norm"] = record.grad_norm
        for name, layer in record.attention.items():
            place = f"attention/{name}"
            scalars |= {f"{place}/entropy": layer.entropy, f"{place}/dead_kernels": float(layer.dead)}
            scalars[f"{place}/similarity"] = layer.similarity
            for kernel, (share, spread) in enumerate(zip(layer.share, layer.spread, strict=True)):
                scalars[f"{place}/share/{kernel}"] = share
                scalars[f"{place}/spread/{kernel}"] = spread
        if record.attention:
            self._shares.append({name: list(layer.share) for name, layer in record.attention.items()})
        self._scalars(scalars, record.step)

    def evaluation(self, record: EvaluationRecord) -> None:
        suffix = "_ema" if record.ema else ""
        values = {
            f"loss/{record.split}{suffix}": record.loss,
            f"accuracy/{record.split}{suffix}": record.accuracy,
        }
        if record.split == self._split:
            values[f"speed/evaluation{suffix}_s"] = record.seconds
        self._scalars(values, record.step)
        if self._shares and not record.ema and record.split == self._split:
            self._values(
                [image_value("attention/shares_over_time", shares_picture(self._shares))], record.step
            )

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is None:
            figures = {"pause_s": record.pause_s, "commit_s": record.commit_s, "bytes": float(record.bytes)}
            self._scalars({f"checkpoint/{name}": value for name, value in figures.items()}, record.step)
        else:
            self.note(f"saving step {record.step} failed: {record.error}", level="warning")

    def detail(self, record: Detail) -> None:
        if isinstance(record, TextRecord):
            if self._log is None:
                self._texts.append(record)
            else:
                self._log.add(text_summary(record.tag, record.text), self._step)
        elif isinstance(record, GraphRecord):
            if self._log is not None and self._fresh:  # the graph is unchanged after a resume
                self._log.add_graph(record.graph)
        elif isinstance(record, ImagesRecord):
            self._values([image_value(record.tag, grid(record.images, record.captions))], record.step)
        elif isinstance(record, ConfusionRecord):
            self._confusion(record)
        elif isinstance(record, HistogramsRecord):
            self._values(
                [
                    Summary.Value(tag=tag, histo=histogram(*pair))
                    for tag, pair in record.histograms.items()
                    if pair[1].any()
                ],
                record.step,
            )

    def note(self, text: str, *, level: str = "info") -> None:
        if self._log is not None and level != "info":
            self._log.add(text_summary(f"notes/{level}", markdown(text)), self._step)

    def close(self, summary: RunSummary) -> None:
        if self._log is not None and summary.state == "done":
            for end in layout.hyper_parameters(self._hyper_parameters, split=self._split, done=True):
                self._log.add(end, self._step)
        if self._shipper is not None:
            self._shipper.close()
            self._tell_messages()
        self._log = self._shipper = None

    def _tell_messages(self) -> None:
        for text, level in self._shipper.pop_messages() if self._shipper is not None else ():
            self._tell(text, level)

    def _confusion(self, record: ConfusionRecord) -> None:
        counts = np.array(record.counts, dtype=np.float64)
        rows = counts.sum(1, keepdims=True)
        shares = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
        scalars = {f"accuracy/{record.split}_top5": record.top5}
        for name, share in zip(record.classes, np.diag(shares), strict=True):
            if math.isfinite(share):
                scalars[f"accuracy_by_class/{name}"] = float(share)
        self._scalars(scalars, record.step)
        side = 36 if len(record.classes) <= 20 else 8
        picture = table(shares, record.classes, record.classes if side > 8 else (), cell=(side, side))
        self._values([image_value("evaluation/confusion", picture)], record.step)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        self._values([Summary.Value(tag=tag, simple_value=value) for tag, value in finite.items()], step)

    def _values(self, values: list[Summary.Value], step: int) -> None:
        if self._log is not None and values:
            self._log.add(Summary(value=values), step)


def shares_picture(history: list[dict[str, list[float]]]) -> np.ndarray:
    """Mean shares over time → uint8 [H, W, 3]: one row per layer and kernel, time from left to right.

    The middle of the colour scale is an equal share, 1/K; its upper end is at least twice that.
    """
    every = -(-len(history) // _HEAT_MAP_COLUMNS)
    columns = history[::every]
    rows: list[list[float]] = []
    names: list[str] = []
    for name, first in columns[-1].items():
        for kernel in range(len(first)):
            shares = [column.get(name) for column in columns]
            rows.append([math.nan if share is None else share[kernel] * len(first) / 2 for share in shares])
            names.append(name if kernel == 0 else "")
    width = max(2, 400 // len(columns))
    return table(np.array(rows), names, cell=(width, 7))


def histogram(edges: np.ndarray, counts: np.ndarray) -> HistogramProto:
    """A TensorBoard histogram from edges [B+1] and counts [B]; its first bucket ends at the lowest edge."""
    middles = (edges[:-1] + edges[1:]) / 2
    return HistogramProto(
        min=float(edges[0]),
        max=float(edges[-1]),
        num=float(counts.sum()),
        sum=float((middles * counts).sum()),
        sum_squares=float((middles**2 * counts).sum()),
        bucket_limit=edges.tolist(),
        bucket=[0.0, *map(float, counts)],
    )


def local_folder(logdir: str | None, run_dir: Path) -> tuple[Path, str | None]:
    """The folder of events, and the URL to which they are uploaded or None, for `monitor.logdir`."""
    if logdir is None:
        return run_dir / "tensorboard", None
    if is_url(logdir):
        return run_dir / "tensorboard", logdir
    return Path(local_path(logdir)), None
