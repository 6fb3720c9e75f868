"""`dydist tensorboard` and `dydist bench monitor` as a person starts them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dydist.bench.monitor import median_interval
from dydist.monitor.outputs.tensorboard import TensorBoard
from helpers.monitor_records import step_record, summary


def test_tensorboard_shows_runs_by_name_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-1"):
        board = TensorBoard(tmp_path / name / "tensorboard", run_dir=tmp_path / name)
        board.start(step=0, total_steps=1, steps_per_epoch=1)
        board.step(step_record(1))
        board.close(summary())
    command = [sys.executable, "-m", "dydist.cli.main", "tensorboard", "seed-0", "seed-1", "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = next(m[1] for line in process.stderr if (m := re.search(r"(http://localhost:\d+)/", line)))
    with urllib.request.urlopen(f"{address}/data/environment", timeout=30) as answer:
        assert "seed-0:" in json.load(answer)["data_location"]
    process.send_signal(signal.SIGINT)
    process.stderr.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.long
def test_bench_monitor_gives_ratios() -> None:
    command = [sys.executable, "-m", "dydist.cli.main", "bench", "monitor", "--steps", "4", "--pairs", "2"]
    command += ["--width", "0.0625", "--batch-size", "16", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    result = json.loads(done.stdout)
    assert len(result["wall"]) == len(result["cpu"]) == 2
    assert all(0 < ratio < 100 for ratio in result["wall"] + result["cpu"])
    assert "pair 2 of 2" in done.stderr


def test_the_median_has_an_interval() -> None:
    assert median_interval([1.0] * 5) == (1.0, 1.0, 1.0)
    middle, low, high = median_interval([0.9, 1.0, 1.1, 1.0, 1.2])
    assert low <= middle == 1.0 <= high
