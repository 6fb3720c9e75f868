from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.monitor import JsonLines
from dydist.monitor.outputs.eventlog import EventLog, event_files, whole_records
from dydist.monitor.outputs.layout import charts
from dydist.monitor.outputs.tensorboard import TensorBoard
from dydist.records import (
    ConfusionRecord,
    GraphRecord,
    HistogramsRecord,
    ImagesRecord,
    LayerAttention,
    Monitor,
    StepRecord,
)
from helpers.monitor_records import (
    checkpoint_record,
    documented_tags,
    evaluation_record,
    step_record,
    summary,
)

ALL = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
LAYER = LayerAttention(entropy=0.5, share=(0.75, 0.25), spread=(0.1, 0.2), dead=1, similarity=0.125)


def read(folder: Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder), size_guidance=ALL)
    reader.Reload()
    return reader


def series(reader: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in reader.Scalars(tag)]


def full_record(step: int) -> StepRecord:
    extra = {
        "data_hash": 5.0, "optim/weight_norm": 2.0, "optim/update_ratio": 0.1, "speed/busy_s": 0.1,
        "speed/collective_wait_s": 0.0, "speed/step_p50_s": 0.1, "speed/step_p95_s": 0.1, "speed/step_max_s": 0.2,
        "ranks/slowest": 1.0, "ranks/slowest_ratio": 1.1, "ranks/busy_s/0": 0.1, "ranks/busy_s/1": 0.2,
        "memory/process_bytes": 1e9, "memory/gpu_peak_bytes": 1e9, "attention/entropy": 0.5,
        "attention/dead_kernels": 1.0, "schedule/kernel_lr": 0.4,
    }  # fmt: skip
    return step_record(step, extra=extra, attention={"layer1.0.conv1": LAYER})


def write_everything(monitor: Monitor) -> None:
    monitor.start(step=0, total_steps=100, steps_per_epoch=10)
    monitor.detail(GraphRecord(graph=b""))
    monitor.step(full_record(1))
    monitor.detail(ImagesRecord(step=1, tag="images/input", images=np.zeros((3, 3, 8, 8), np.uint8)))
    edges, counts = np.linspace(-1, 1, 5), np.array([1, 2, 3, 4])
    tags = ("weights/conv1.weight", "gradients/conv1.weight")
    monitor.detail(HistogramsRecord(step=1, histograms=dict.fromkeys(tags, (edges, counts))))
    monitor.evaluation(evaluation_record(2))
    monitor.evaluation(evaluation_record(2, ema=True))
    monitor.detail(ConfusionRecord(step=2, classes=("cat", "dog"), counts=((3, 1), (0, 2)), top5=1.0))
    images, captions = np.zeros((2, 3, 32, 32), np.uint8), ("cat\nas dog\n90%",) * 2
    monitor.detail(ImagesRecord(step=2, tag="images/confident_mistakes", images=images, captions=captions))
    monitor.checkpoint(checkpoint_record(2))
    monitor.note("storage refuses", level="warning")
    monitor.close(summary())


def board(folder: Path) -> TensorBoard:
    return TensorBoard(
        folder / "tensorboard",
        run_dir=folder,
        config_text="seed: 0",
        hyper_parameters={"optim.lr": 0.1, "seed": 0},
    )


def test_every_series_that_the_docs_name_is_there(tmp_path: Path) -> None:
    write_everything(board(tmp_path))
    reader = read(tmp_path / "tensorboard")
    tags = reader.Tags()
    there = {tag for kind in ("scalars", "images", "histograms", "tensors") for tag in tags[kind]}
    names = {
        "<layer>": "layer1.0.conv1",
        "<split>": "test",
        "<k>": "0",
        "<class>": "cat",
        "<parameter>": "conv1.weight",
        "<rank>": "0",
    }
    documented = set()
    for tag in documented_tags():
        for placeholder, value in names.items():
            tag = tag.replace(placeholder, value)
        documented.add(tag)
    # written by a run itself: tests/run/test_run_strategies.py
    documented.remove("model/strategies/text_summary")
    assert documented <= there, documented - there
    generic = {re.sub(r"/[1-9]$", "/0", tag).replace("/dog", "/cat") for tag in there}
    hidden = {
        "custom_scalars__config__",
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert generic - hidden <= documented, generic - hidden - documented


def test_values_and_steps_are_right(tmp_path: Path) -> None:
    write_everything(board(tmp_path))
    reader = read(tmp_path / "tensorboard")
    assert [(e.step, e.value) for e in reader.Scalars("loss/train")] == [(1, 2.0)]
    assert reader.Scalars("attention/layer1.0.conv1/share/0")[0].value == 0.75
    assert reader.Scalars("attention/layer1.0.conv1/entropy")[0].value == 0.5
    assert [(e.step, e.value) for e in reader.Scalars("accuracy_by_class/cat")] == [(2, 0.75)]
    assert reader.Scalars("accuracy_by_class/dog")[0].value == 1.0
    histogram = reader.Histograms("weights/conv1.weight")[0].histogram_value
    assert list(histogram.bucket) == [0, 1, 2, 3, 4]
    assert list(histogram.bucket_limit) == [-1, -0.5, 0, 0.5, 1]
    assert "data_hash" not in reader.Tags()["scalars"]


def test_twenty_random_kills_leave_each_step_once(tmp_path: Path) -> None:
    """The run is killed at random steps, the last event torn at a random byte, all within the same second."""
    generator = random.Random(0)
    start = 0
    for _ in range(20):
        monitors = [JsonLines(tmp_path), board(tmp_path)]
        end = min(100, start + generator.randint(1, 15))
        for monitor in monitors:
            monitor.start(step=start, total_steps=100, steps_per_epoch=10)
            for step in range(start + 1, end + 1):
                monitor.step(full_record(step))
                if step % 10 == 0:
                    monitor.evaluation(evaluation_record(step))
        saved = max(start, end - generator.randint(1, 12))
        newest = event_files(tmp_path / "tensorboard")[-1]
        newest.write_bytes(newest.read_bytes()[: -generator.randint(1, 30)])
        start = saved
    last = board(tmp_path)
    last.start(step=start, total_steps=100, steps_per_epoch=10)
    for step in range(start + 1, 101):
        last.step(full_record(step))
        if step % 10 == 0:
            last.evaluation(evaluation_record(step))
    reader = read(tmp_path / "tensorboard")
    for tag in reader.Tags()["scalars"]:
        expected = list(range(10, 101, 10)) if "test" in tag or "evaluation" in tag else list(range(1, 101))
        assert series(reader, tag) == expected, tag
    heat_map = [event.step for event in reader.Images("attention/shares_over_time")]
    assert heat_map == list(range(10, 101, 10))


def test_a_clock_that_is_behind_does_not_hide_a_resume(tmp_path: Path) -> None:
    first = EventLog(tmp_path, purge_step=1, now=lambda: 2_000_000_000.0)
    first.add(charts(), 0)
    second = EventLog(tmp_path, purge_step=1, now=lambda: 1_000_000_000.0)
    assert event_files(tmp_path) == [first.path, second.path]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_whole_records_end_where_a_record_does(tmp_path: Path, cut: int) -> None:
    log = EventLog(tmp_path, purge_step=1)
    whole = len(log.path.read_bytes())
    log.add(charts(), 0)
    data = log.path.read_bytes()
    assert whole_records(data) == len(data)
    assert whole_records(data[:-cut]) == whole
    assert whole_records(b"") == 0
