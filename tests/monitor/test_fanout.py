from __future__ import annotations

from pathlib import Path

from dydist.config import Config, MonitorConfig
from dydist.config.reader import to_dict
from dydist.monitor import (
    JsonLines,
    LineProgress,
    Monitors,
    NullMonitor,
    build_monitors,
    build_terminal,
    read_lines,
)
from dydist.records import StepRecord
from helpers.monitor_records import checkpoint_record, evaluation_record, step_record, summary


class Broken(NullMonitor):
    """Fails at every step, as a monitor on a full disk does."""

    def step(self, record: StepRecord) -> None:
        raise OSError(28, "No space left on device")


def test_a_failing_monitor_is_told_once_and_stops_nobody(tmp_path: Path) -> None:
    lines: list[str] = []
    monitors = Monitors([Broken(), JsonLines(tmp_path), LineProgress(lines.append)])
    monitors.start(step=0, total_steps=100, steps_per_epoch=10)
    for step in (1, 2, 3):
        monitors.step(step_record(step))
    monitors.close(summary())
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    told = [line for line in lines if "No space left" in line]
    assert len(told) == 1
    assert "Broken" in told[0]


def test_everything_a_configuration_asks_for_is_written(tmp_path: Path, capsys: object) -> None:
    config = Config(monitor=MonitorConfig(quiet=True))
    monitors = build_monitors(
        config, tmp_path, world_size=2, terminal=build_terminal(config), trained_with=to_dict(config)
    )
    monitors.start(step=0, total_steps=100, steps_per_epoch=10)
    monitors.step(step_record(1))
    monitors.evaluation(evaluation_record(1))
    monitors.checkpoint(checkpoint_record(1))
    monitors.note("hello")
    monitors.close(summary())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "events.jsonl", "status.json", "tensorboard"}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    monitor = NullMonitor()
    monitor.start(step=0, total_steps=1, steps_per_epoch=1)
    monitor.step(step_record(1))
    monitor.evaluation(evaluation_record(1))
    monitor.checkpoint(checkpoint_record(1))
    monitor.note("hello")
    monitor.close(summary())
    assert list(tmp_path.iterdir()) == []
