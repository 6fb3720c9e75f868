from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.monitor import read_lines
from helpers.support import train

HELD_UP_S = 0.1


def one_is_held_up() -> None:
    """Rank 1 waits in every backward pass, as on a hot or busy node."""
    from dydist.engine.core import TorchEngine

    original = TorchEngine._backward

    def held_up(*arguments: Any, **named: Any) -> Any:
        time.sleep(HELD_UP_S)
        return original(*arguments, **named)

    if os.environ["RANK"] == "1":
        TorchEngine._backward = held_up  # type: ignore[method-assign]


def test_two_processes_write_one_series_and_a_slow_one_is_named(tmp_path: Path) -> None:
    flags = [
        "--data.name", "digits", "--run.dir", tmp_path, "--run.name", "two", "--model.width", "0.0625",
        "--model.stem", "strided", "--train.batch_size", "64", "--train.epochs", "1", "--parallel.shards", "2",
        "--parallel.device", "cpu", "--monitor.every_steps", "4", "--parallel.threads", "1",
    ]  # fmt: skip
    train(flags, 2, tmp_path / "log", before=one_is_held_up)
    folder = tmp_path / "two"
    alerts = [alert["text"] for alert in json.loads((folder / "status.json").read_text())["alerts"]]
    slow = [text for text in alerts if "is slow" in text]
    assert slow
    assert all(text.startswith(f"process 1 on {socket.gethostname()} is slow") for text in slow)
    starts = [event["time"] for event in read_lines(folder / "events.jsonl") if event["kind"] == "start"]
    named = [event["time"] for event in read_lines(folder / "events.jsonl") if event.get("text") in slow]
    assert named[0] - starts[0] < 60

    logged = [1, *range(4, 22, 4), 22]
    steps = [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in steps] == logged
    assert steps[-1]["ranks/slowest"] == 1
    assert steps[-1]["ranks/busy_s/1"] > steps[-1]["ranks/busy_s/0"] + 0.05
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    for tag in ("loss/train", "attention/layer4.1.conv2/entropy", "ranks/busy_s/0", "ranks/busy_s/1"):
        assert [event.step for event in reader.Scalars(tag)] == logged, tag
    assert [event.step for event in reader.Scalars("accuracy/test")] == [22]
    counts = json.loads((folder / "confusion.json").read_text())["counts"]
    assert sum(map(sum, counts)) == 360
