"""For tests of trackers: runs without training, and what the trackers' own readers show of them."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.monitor.outputs.tensorboard import TensorBoard
from dydist.monitor.trackers.process import TrackerProcess
from dydist.monitor.trackers.record import read_record
from dydist.records import ImagesRecord
from helpers.monitor_records import checkpoint_record, step_record, summary
from helpers.pages import read
from helpers.support import missing

_EVERYTHING = {"scalars": 0, "images": 0}


def need(package: str) -> None:
    """Skip at home without the package; fail in CI."""
    if importlib.util.find_spec(package) is None:
        missing(f"the package {package} (pip install 'dydist[{package}]')")


_SILENT = """
class SilentTracker(LinesTracker):
    def log(self, *values):
        import os, urllib.request
        urllib.request.urlopen(os.environ["SILENT_SERVER"])


class HangingTracker(LinesTracker):
    def finish(self, state):
        import time
        time.sleep(600)
"""


def install_lines_tracker(folder: Path) -> None:
    """The package of docs/trackers.md with its entry point, as pip leaves it: a module and a .dist-info.

    It also offers `silent`, which waits for an answer of SILENT_SERVER, and `hanging`, which does not finish.
    """
    page = read("docs/trackers.md")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_tracker.py").write_text(page.split("```python\n")[1].split("```")[0] + _SILENT)
    entry = page.split('entry-points."dydist.monitors"]\n')[1].split("```")[0].replace('"', "")
    info = folder / "my_tracker-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tracker\nVersion: 1.0\n")
    entry += "silent = my_tracker:SilentTracker\nhanging = my_tracker:HangingTracker\n"
    (info / "entry_points.txt").write_text(f"[dydist.monitors]\n{entry}")


def tensorboard_scalars(run_dir: Path) -> dict[str, dict[int, float]]:
    """Value by step by tag, by TensorBoard's own reader; AssertionError if a step is there twice."""
    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=_EVERYTHING)
    reader.Reload()
    found = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    return {tag: _each_once(pairs) for tag, pairs in found.items()}


def lines_scalars(run_dir: Path) -> dict[str, dict[int, float]]:
    """What the tracker of docs/trackers.md has of one run."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in Path(read_record(run_dir, "lines")["place"]).read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        for tag, value in values.items():
            found.setdefault(tag, []).append((step, value))
    return {tag: _each_once(pairs) for tag, pairs in found.items()}


def mlflow_run(store: str) -> tuple[Any, dict[str, dict[int, float]]]:
    """The only run of a store, and its metrics, by MLflow's client."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("dydist")
    (run,) = client.search_runs([experiment.experiment_id])
    history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return run, {key: _each_once([(m.step, m.value) for m in ms]) for key, ms in history.items()}


def wandb_scalars(run_dir: Path) -> tuple[Any, dict[str, dict[int, float]]]:
    """The only offline run of a run folder, and its history, through W&B's own message definitions."""
    from wandb.proto import wandb_internal_pb2

    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    run, found = None, {}
    for data in _wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            run = record.run
        for item in record.history.item:
            tag, value = item.key or "/".join(item.nested_key), json.loads(item.value_json)
            if len(item.nested_key) < 2 and not tag.startswith("_") and isinstance(value, int | float):
                found.setdefault(tag, []).append((record.history.step.num, value))
    return run, {tag: _each_once(pairs) for tag, pairs in found.items()}


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, after seven bytes. W&B has no reader in Python any more."""
    assert data[:4] == b":W&B"
    block, header, offset, parts = 32768, 7, 7, b""
    while offset + header <= len(data):
        if block - offset % block < header:
            offset += block - offset % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        part = data[offset + header : offset + header + length]
        parts = part if kind in (1, 2) else parts + part
        offset += header + length
        if kind in (1, 4):
            yield parts


def _each_once(pairs: list[tuple[int, float]]) -> dict[int, float]:
    steps = [step for step, _ in pairs]
    assert steps == sorted(set(steps)), steps
    return dict(pairs)


class UntrainedRun:
    """A run that logs and saves as a real one does, without training: its TensorBoard log and its trackers."""

    def __init__(self, run_dir: Path, *names: str, close_s: float = 60.0) -> None:
        run_dir.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.board = TensorBoard(run_dir / "tensorboard", run_dir=run_dir)
        self.trackers = [
            TrackerProcess(
                name,
                run="run",
                run_dir=run_dir,
                events=run_dir / "tensorboard",
                config={"seed": 0, "optim.lr": 0.1},
                tell=self.tell,
                close_s=dict.fromkeys(("done", "stopped"), close_s),
            )
            for name in names
        ]

    def tell(self, text: str, level: str) -> None:
        self.said.append(text)

    def start(self, step: int) -> None:
        for monitor in (self.board, *self.trackers):
            monitor.start(step=step, total_steps=100, steps_per_epoch=10)

    def log(self, first: int, last: int, *, life: int = 0) -> None:
        """Steps `first` to `last`, an image at the last. `life` makes the values of each life other ones."""
        for step in range(first, last + 1):
            for monitor in (self.board, *self.trackers):
                monitor.step(step_record(step, loss=life + 1 / step))
        pixels = np.full((1, 3, 8, 8), last, dtype=np.uint8)
        self.board.detail(ImagesRecord(step=last, tag="images/input", images=pixels))

    def save(self, step: int) -> None:
        for monitor in (self.board, *self.trackers):
            monitor.checkpoint(checkpoint_record(step))

    def wait_until_sent(self, step: int, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while any(tracker._sent < step for tracker in self.trackers):
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)
            for tracker in self.trackers:
                tracker._hear()

    def die(self) -> None:
        """What a SIGKILL of the training process does to the trackers' processes: their orders end."""
        for tracker in self.trackers:
            process = tracker._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 1
            tracker._end()

    def close(self, state: str = "done") -> None:
        for monitor in (self.board, *self.trackers):
            monitor.close(summary(state))
