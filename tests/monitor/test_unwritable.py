"""What cannot be written in mid-run never ends training: told once, tried again. A disk full at the start does."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dydist.monitor import Monitors, NullMonitor, StatusFile
from dydist.monitor.outputs.eventlog import EventLog, whole_records
from dydist.monitor.outputs.jsonlines import JsonLines, read_lines
from dydist.records import StepRecord
from helpers.monitor_records import step_record
from helpers.support import REPOSITORY, metrics, missing, train

SMALL = [
    *"--config quickstart --train.max_steps 8 --data.limit 128 --train.batch_size 32 --model.width 0.0625".split(),
    *"--parallel.shards 2 --monitor.every_steps 1".split(),
]


def break_and_mend() -> None:
    """In the training process: after step 2 folders and files are in the way, after step 5 they are gone."""
    from dydist.process.report import ProcessReport

    heartbeat = ProcessReport.heartbeat
    run = Path(os.environ["BROKEN_RUN"])
    files = ("status.json", "metrics.jsonl", "events.jsonl")

    def breaking(self: ProcessReport, step: int) -> None:
        self._touched = 0.0  # a heartbeat at every step
        heartbeat(self, step)
        assert self.folder is not None
        if step == 2:
            for name in files:
                (run / name).rename(run / f"{name}.kept")
                (run / name).mkdir()
            (run / "tensorboard").rename(run / "tensorboard.kept")
            (run / "tensorboard").write_text("in the way")
            self.folder.rename(f"{self.folder}.kept")
            self.folder.write_text("in the way")
        if step == 5:
            for name in files:
                (run / name).rmdir()
                (run / f"{name}.kept").rename(run / name)
            (run / "tensorboard").unlink()
            (run / "tensorboard.kept").rename(run / "tensorboard")
            self.folder.unlink()
            Path(f"{self.folder}.kept").rename(self.folder)

    ProcessReport.heartbeat = breaking  # type: ignore[method-assign]


def test_training_goes_on_past_what_cannot_be_written(tmp_path: Path) -> None:
    run = tmp_path / "quickstart"
    said = train(
        [*SMALL, "--run.dir", tmp_path], 1, tmp_path / "log", before=break_and_mend,
        BROKEN_RUN=str(run), DYDIST_EXIT_DIR=str(tmp_path / "exit"),
    )  # fmt: skip
    assert "done: step 8" in said
    for name in ("StatusFile", "JsonLines", "TensorBoard"):
        assert said.count(f"{name} could not write") == 1, said
    assert said.count("DYDIST_EXIT_DIR: cannot write") == 1
    steps = [line["step"] for line in metrics(run)]
    assert steps[:2] == [1, 2]
    assert steps[-2:] == [7, 8]
    assert '"state": "done"' in (run / "status.json").read_text()
    assert (tmp_path / "exit" / "rank-0.json").exists()


class Late(NullMonitor):
    """Cannot start at first."""

    def __init__(self) -> None:
        self.tries, self.steps = 0, list[int]()

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self.tries += 1
        if self.tries < 3:
            raise OSError(28, "No space left on device")

    def step(self, record: StepRecord) -> None:
        self.steps.append(record.step)


def test_a_monitor_that_could_not_start_is_started_later() -> None:
    late = Late()
    monitors = Monitors([late])
    monitors.start(step=0, total_steps=10, steps_per_epoch=5)
    for step in (1, 2, 3):
        monitors.step(step_record(step))
    assert (late.tries, late.steps) == (3, [2, 3])


def test_a_status_that_cannot_be_written_at_first_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.mkdir()
    status = StatusFile(path, world_size=1)
    with pytest.raises(OSError):
        status.note("x")
    path.rmdir()
    status.start(step=0, total_steps=10, steps_per_epoch=5)
    assert path.is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """1 MiB of room, by a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        missing("the right to mount a file system")
    return folder


def fill(folder: Path, *, leave: int) -> None:
    with open(folder / "filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - leave)


def test_a_disk_that_is_full_at_the_start_is_told_in_one_line(small_disk: Path) -> None:
    try:
        with pytest.raises(OSError):
            fill(small_disk, leave=0)
        done = subprocess.run(
            [sys.executable, "dydist/train.py", *SMALL, "--run.dir", str(small_disk)],
            cwd=REPOSITORY, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("dydist: run.dir: cannot write ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_a_full_disk_tears_off_costs_no_later_line(small_disk: Path) -> None:
    try:
        lines, log = JsonLines(small_disk), EventLog(small_disk / "tensorboard", purge_step=1)
        lines.start(step=0, total_steps=100, steps_per_epoch=10)
        lines.step(step_record(1))
        with pytest.raises(OSError):
            fill(small_disk, leave=0)
        from tensorboard.compat.proto.summary_pb2 import Summary

        big = Summary(value=[Summary.Value(tag="x" * 3000, simple_value=1.0)])
        for number in range(9):
            with suppress(OSError):
                lines.note("n" * 3000)
                lines.step(step_record(2 + number))
            with suppress(OSError):
                log.add(big, number)
        (small_disk / "filler").unlink()
        lines.step(step_record(50))
        log.add(big, 50)
        assert [line["step"] for line in read_lines(small_disk / "metrics.jsonl")][-1] == 50
        data = log.path.read_bytes()
        assert whole_records(data) == len(data)
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
