from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dydist.monitor.outputs.alerts import Alerts
from dydist.monitor.outputs.prometheus import PrometheusFile
from dydist.monitor.probes.stragglers import StragglerWatch
from dydist.records import LayerAttention, StepRecord
from helpers.monitor_records import checkpoint_record, evaluation_record, step_record, summary

PLENTY = 1 << 40


def usual(count: int) -> list[StepRecord]:
    return [step_record(step, loss=1.0) for step in range(1, count + 1)]


def judge(
    records: Iterable[StepRecord], *, free: Callable[[Path], int] = lambda _: PLENTY
) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    alerts = Alerts(lambda text, level: told.append((text, level)), folder=Path("run"), free_bytes=free)
    for record in records:
        alerts.step(record)
    return told


def attention(share: float) -> dict[str, LayerAttention]:
    layer = LayerAttention(entropy=0.1, share=(share, 1 - share), spread=(0, 0), dead=0, similarity=0.0)
    return {"layer3.1.conv2": layer}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": 3.5}, "the loss exploded: 3.5, the median before was 1"),
        ({"loss": 1.0, "images_per_s": 600.0}, "throughput fell by half: 600 images/s, before 1234"),
        ({"loss": 1.0, "data_wait_s": 0.02}, "waiting for data 20% of the time"),
        ({"loss": 1.0, "attention": attention(0.97)}, "attention collapsed to one kernel in layer3.1.conv2"),
    ],
)
def test_a_trouble_that_lasts_is_told_once(changes: dict[str, object], words: str) -> None:
    trouble = step_record(50, **changes)
    assert judge([*usual(10), trouble, *usual(10)]) == []
    told = judge([*usual(10), trouble, trouble, trouble, trouble])
    assert [level for _, level in told] == ["warning"]
    assert words in told[0][0]


def test_what_moves_within_its_usual_bounds_is_no_trouble() -> None:
    moved = step_record(50, loss=2.9, images_per_s=700.0, attention=attention(0.9))
    assert judge([*usual(10), moved, moved, moved, moved]) == []


def test_a_trouble_that_comes_back_is_told_again() -> None:
    waits = [step_record(50, loss=1.0, data_wait_s=0.05)] * 2
    assert len(judge([*usual(3), *waits, *usual(3), *waits])) == 2


def test_a_loss_that_is_not_finite_is_an_error_at_once() -> None:
    assert judge([step_record(7, loss=float("nan"))]) == [("step 7: the loss is nan", "error")]


def test_a_disk_that_fills() -> None:
    told = judge(usual(3), free=lambda _: 1 << 30)
    assert len(told) == 1
    assert "1.0 GiB left" in told[0][0]


def test_a_store_that_keeps_failing_names_the_newest_checkpoint() -> None:
    told: list[str] = []
    alerts = Alerts(lambda text, level: told.append(text), folder=Path("run"), free_bytes=lambda _: PLENTY)
    for record in (checkpoint_record(10), checkpoint_record(20, "refused"), checkpoint_record(30, "refused")):
        alerts.checkpoint(record)
    assert told == ["s3://bucket/run keeps failing: refused; newest checkpoint: step 10; training goes on"]


def test_the_slow_process_is_named_with_its_host() -> None:
    watch = StragglerWatch(["n1", "n2", "n3"])
    assert watch.update([0.1, 0.1, 0.13]) is None  # once may be chance
    told = watch.update([0.1, 0.1, 0.13])
    assert told is not None
    assert "process 2 on n3 is slow: busy 0.13 s a step, the others 0.1 s" in told
    assert watch.update([0.1, 0.1, 0.13]) is None  # told once
    assert watch.update([0.1, 0.1, 0.1]) is None
    assert watch.update([0.13, 0.1, 0.1]) is None
    assert "process 0 on n1" in str(watch.update([0.13, 0.1, 0.1]))


def test_nobody_is_slow_alone_or_within_a_fifth() -> None:
    assert StragglerWatch(["n1"]).update([5.0]) is None
    watch = StragglerWatch(["n1", "n2"])
    assert [watch.update([1.0, 1.19]) for _ in range(3)] == [None] * 3


def test_prometheus_file(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    monitor = PrometheusFile(path, 'a "b"', now=lambda: 5.0)
    monitor.start(step=0, total_steps=100, steps_per_epoch=10)
    monitor.step(step_record(1, loss=float("nan")))
    monitor.evaluation(evaluation_record(1))
    monitor.checkpoint(checkpoint_record(1))
    monitor.checkpoint(checkpoint_record(2, "refused"))
    monitor.note("slow", level="warning")
    lines = path.read_text().splitlines()
    assert "# TYPE dydist_step gauge" in lines
    assert 'dydist_step{run="a \\"b\\""} 1.0' in lines
    assert 'dydist_loss{run="a \\"b\\""} NaN' in lines
    assert 'dydist_checkpoint_failures{run="a \\"b\\""} 1.0' in lines
    assert 'dydist_alerts{run="a \\"b\\""} 1.0' in lines
    assert 'dydist_running{run="a \\"b\\""} 1.0' in lines
    assert path.read_text().endswith("\n")
    monitor.close(summary())
    assert 'dydist_running{run="a \\"b\\""} 0.0' in path.read_text()
