from __future__ import annotations

import io

import pytest
from rich.console import Console

from dydist.monitor import LineProgress, QuietProgress, TerminalProgress
from dydist.monitor.outputs.progress import choose_progress
from dydist.records import Monitor
from helpers.monitor_records import Clock, checkpoint_record, evaluation_record, step_record, summary


def run(progress: Monitor, clock: Clock) -> None:
    progress.start(step=20, total_steps=15600, steps_per_epoch=390)
    for step in range(40, 15601, 400):
        clock.now += 2.0
        progress.step(step_record(step, epoch=step // 390, loss=2.345678, lr=0.0123456, accuracy=1.0))
    progress.evaluation(evaluation_record(15600, images=10000))
    progress.checkpoint(checkpoint_record(15600))
    progress.note("data waits", level="warning")
    progress.close(summary("stopped"))


def test_lines_are_plain_and_fit_80_columns() -> None:
    lines: list[str] = []
    clock = Clock()
    run(LineProgress(lines.append, monotonic=clock), clock)
    assert all(len(line) <= 80 and line.isprintable() for line in lines), lines
    assert lines[0] == "going on from step 20 of 15600"
    shown = [line for line in lines if line.split()[0].isdigit()]
    assert len(shown) == 8  # 39 records, 2 s apart, at most one line in 10 s
    assert "lr 0.012" in shown[0]
    assert "wait 1%" in shown[0]
    assert "warning: data waits" in lines
    assert "run the same command again" not in lines  # standard error has it


@pytest.mark.parametrize("width", [80, 160])
def test_the_bar_fits_its_terminal(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    clock = Clock()
    run(TerminalProgress(console, monotonic=clock), clock)
    plain = [line.split("\r")[-1] for line in file.getvalue().replace("\x1b[2K", "").split("\n")]
    assert any("epoch 40/40" in line for line in plain)
    assert any("img/s" in line and "wait 1.0%" in line for line in plain)
    assert any("test accuracy 75.00% (best 80.00%, on the test split)" in line for line in plain)
    assert "…" not in file.getvalue()


def test_quiet_tells_faults_alone() -> None:
    lines: list[str] = []
    quiet = QuietProgress(lines.append)
    run(quiet, Clock())
    quiet.checkpoint(checkpoint_record(3, error="refused"))
    assert lines == [
        "warning: data waits",
        "saving step 3 to s3://bucket/run failed: refused; training goes on",
    ]


def test_the_form_fits_where_it_is_written() -> None:
    pipe = Console(file=io.StringIO())
    terminal = Console(file=io.StringIO(), force_terminal=True)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    notebook = Console(file=io.StringIO(), force_jupyter=True, force_terminal=True)
    assert isinstance(choose_progress(pipe, quiet=False), LineProgress)
    assert isinstance(choose_progress(terminal, quiet=False), TerminalProgress)
    assert isinstance(choose_progress(dumb, quiet=False), LineProgress)
    assert isinstance(choose_progress(notebook, quiet=False), LineProgress)
    assert isinstance(choose_progress(terminal, quiet=True), QuietProgress)


def test_no_color_leaves_no_colour() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={"NO_COLOR": "1", "TERM": "xterm"})
    progress = TerminalProgress(console, monotonic=Clock())
    progress.note("disk is full", level="error")
    assert "\x1b[3" not in file.getvalue()
    assert "disk is full" in file.getvalue()
