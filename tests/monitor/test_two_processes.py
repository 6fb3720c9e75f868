from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.monitor import read_lines
from helpers.support import REPOSITORY

WORKER = REPOSITORY / "tests/helpers/slow_process.py"


@pytest.mark.slow
def test_two_processes_write_one_series_and_a_slow_one_is_named(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0", str(WORKER), "--data.name", "digits", "--run.dir", str(tmp_path),
        "--run.name", "two", "--model.width", "0.0625", "--model.stem", "strided", "--train.batch_size", "64",
        "--train.epochs", "1", "--parallel.shards", "2", "--parallel.device", "cpu", "--monitor.every_steps", "4",
        "--parallel.threads", "1",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "WORLD_SIZE": "2"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
