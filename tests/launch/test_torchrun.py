"""`torchrun dydist/train.py` is the same run as `accelerate launch dydist/train.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dydist.compare.two import compare_runs
from helpers.support import REPOSITORY, metrics, train

SMALL = (
    "--config quickstart --train.max_steps 4 --data.limit 64 --train.batch_size 32 --model.width 0.0625 "
    "--parallel.shards 2 --parallel.reduce exact"
).split()


def start(*launcher: str, runs: Path, name: str) -> None:
    words = [*launcher, "dydist/train.py", *SMALL, "--run.dir", str(runs), "--run.name", name]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: step 4") == 1, done.stdout


@pytest.mark.long  # `accelerate launch` of two processes is torchrun: tests/run/test_train.py
def test_torchrun_starts_two_processes(tmp_path: Path) -> None:
    torchrun = str(Path(sys.executable).parent / "torchrun")
    train([*SMALL, "--run.dir", tmp_path, "--run.name", "alone"], 1, tmp_path / "log")
    start(torchrun, "--standalone", "--nproc-per-node=2", runs=tmp_path, name="two")
    assert compare_runs(tmp_path / "alone", tmp_path / "two").equal
    assert [line["step"] for line in metrics(tmp_path / "two")][-1] == 4
