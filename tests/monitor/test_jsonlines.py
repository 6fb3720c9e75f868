from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.monitor import JsonLines, read_lines
from helpers.monitor_records import Clock, checkpoint_record, evaluation_record, step_record, summary


def run(folder: Path, *, start: int, end: int) -> None:
    """Log steps start+1 … end, an evaluation each tenth, and leave without a close, as a kill does."""
    lines = JsonLines(folder, now=Clock())
    lines.start(step=start, total_steps=100, steps_per_epoch=10)
    for step in range(start + 1, end + 1):
        lines.step(step_record(step))
        if step % 10 == 0:
            lines.evaluation(evaluation_record(step))


def steps_of(folder: Path, kind: str) -> list[int]:
    return [line["step"] for line in read_lines(folder / "metrics.jsonl") if line["kind"] == kind]


def test_lines_hold_the_contracts_keys_and_floats_in_full(tmp_path: Path) -> None:
    loss = 0.1 + 0.2
    lines = JsonLines(tmp_path, now=Clock(5.0))
    lines.start(step=0, total_steps=10, steps_per_epoch=5)
    lines.step(step_record(1, loss=loss, extra={"attention/entropy/mean": 0.25}))
    lines.evaluation(evaluation_record(1, ema=True))
    step, evaluation = read_lines(tmp_path / "metrics.jsonl")
    assert step["kind"] == "step"
    assert step["loss"] == loss
    assert step["attention/entropy/mean"] == 0.25
    assert {"step", "epoch", "lr", "temperature", "images_per_s", "accuracy", "data_wait_s"} <= step.keys()
    assert evaluation["kind"] == "evaluation"
    assert evaluation["ema"] is True
    assert evaluation.keys() >= {"step", "epoch", "loss", "accuracy", "images", "seconds"}


@settings(deadline=None, max_examples=30)  # it writes files: as slow as the disk is
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 200)), max_size=20))
def test_twenty_kills_leave_each_step_once(
    tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int, int]]
) -> None:
    """Each kill comes some steps on, tears off some bytes, and the run goes back to its last save."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "metrics.jsonl"
    start = 0
    for length, torn in kills:
        end = min(start + length, 100)
        run(folder, start=start, end=end)
        saved = max(start, end // 5 * 5)
        whole = path.read_bytes()
        beyond = [line for line in whole.splitlines(keepends=True) if json.loads(line)["step"] > saved]
        path.write_bytes(whole[: len(whole) - min(torn, len(b"".join(beyond)))])
        start = saved
    run(folder, start=start, end=100)
    assert steps_of(folder, "step") == list(range(1, 101))
    assert steps_of(folder, "evaluation") == list(range(10, 101, 10))


def test_a_start_from_nothing_drops_all_old_lines(tmp_path: Path) -> None:
    run(tmp_path, start=0, end=20)
    run(tmp_path, start=0, end=3)
    assert steps_of(tmp_path, "step") == [1, 2, 3]


def test_cutting_replaces_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between writing the shorter file and renaming it leaves the old file as it was."""
    run(tmp_path, start=0, end=20)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        JsonLines(tmp_path).start(step=10, total_steps=100, steps_per_epoch=10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_happened_outlives_a_resume_and_a_torn_line(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path, now=Clock(), identity={"host": "n1"})
    lines.start(step=0, total_steps=100, steps_per_epoch=10)
    lines.checkpoint(checkpoint_record(10))
    lines.note("store is slow", level="warning")
    events = tmp_path / "events.jsonl"
    with open(events, "ab") as file:
        file.write(b'{"kind": "note", "ti')
    again = JsonLines(tmp_path, now=Clock(), identity={"host": "n2"})
    again.start(step=0, total_steps=100, steps_per_epoch=10)
    again.close(summary())
    assert [line["kind"] for line in read_lines(events)] == ["start", "checkpoint", "note", "start", "end"]
    assert [line["host"] for line in read_lines(events) if line["kind"] == "start"] == ["n1", "n2"]


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path)
    lines.start(step=0, total_steps=10, steps_per_epoch=5)
    lines.step(step_record(1, loss=float("nan"), grad_norm=float("inf")))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert json.loads(text)["loss"] is None
    assert json.loads(text)["grad_norm"] is None
