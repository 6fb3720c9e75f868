"""`dydist tensorboard` as a person starts it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

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
