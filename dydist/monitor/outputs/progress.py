"""Progress of a run: a bar on a terminal, plain lines in a log file or a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs import text
from dydist.monitor.outputs.pace import Pace
from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord
from dydist.text.display import cell, show

DRAW_EVERY_S = 1.0
"""Minimum seconds between redraws of the bar, which records trigger: a separate thread would cost the loop more."""
LINE_EVERY_S = 10.0
"""Minimum seconds between plain lines of steps; evaluations, saves and notes are always printed."""


class TerminalProgress(NullMonitor):
    """A bar with a line of metrics below it, in 80 columns; events scroll above it."""

    def __init__(self, console: Console, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._pace = Pace()
        self._steps_per_epoch = 1
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("ETA {task.fields[eta]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, epoch="-", eta=text.duration(None))
        self._figures = Text("", no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bar, self._figures), console=console, auto_refresh=False)
        self._draw_due = float("-inf")

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._total = total_steps
        self._pace.update(step, self._monotonic())
        self._show(step)
        if (line := text.start_line(step, total_steps)) is not None and step:
            self.note(line)
        self._live.start()

    def step(self, record: StepRecord) -> None:
        self._pace.update(record.step, self._monotonic())
        self._figures.plain = text.figures(record)
        self._show(record.step)

    def evaluation(self, record: EvaluationRecord) -> None:
        self._print(text.evaluation_line(record), "bold")

    def checkpoint(self, record: CheckpointRecord) -> None:
        self._print(text.checkpoint_line(record), "dim" if record.error is None else "yellow")

    def note(self, text: str, *, level: str = "info") -> None:
        self._print(text, {"warning": "yellow", "error": "bold red"}.get(level, ""))

    def close(self, summary: RunSummary) -> None:
        self._live.stop()
        for line in text.summary_lines(summary):
            self._print(line, "")

    def _show(self, step: int) -> None:
        epochs = -(-self._total // self._steps_per_epoch)
        epoch = min(max(0, step - 1) // self._steps_per_epoch + 1, epochs)
        eta = text.duration(self._pace.eta_s(self._total))
        self._bar.update(self._task, completed=step, total=self._total, epoch=f"{epoch}/{epochs}", eta=eta)
        if (now := self._monotonic()) >= self._draw_due:
            self._draw_due = now + DRAW_EVERY_S
            self._live.refresh()

    def _print(self, line: str, style: str) -> None:
        self._console.print(cell(line, style, lines=True))


class LineProgress(NullMonitor):
    """Plain lines without control codes, for log files, pipes, notebooks and dumb terminals."""

    def __init__(
        self, write: Callable[[str], object], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._monotonic = monotonic
        self._pace = Pace()
        self._total = 0
        self._due = float("-inf")

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._total = total_steps
        self._pace.update(step, self._monotonic())
        if (line := text.start_line(step, total_steps)) is not None:
            self._write(line)

    def step(self, record: StepRecord) -> None:
        now = self._monotonic()
        self._pace.update(record.step, now)
        if now >= self._due:
            self._due = now + LINE_EVERY_S
            self._write(text.step_line(record, eta_s=self._pace.eta_s(self._total)))

    def evaluation(self, record: EvaluationRecord) -> None:
        self._write(text.evaluation_line(record))

    def checkpoint(self, record: CheckpointRecord) -> None:
        self._write(text.checkpoint_line(record))

    def note(self, text: str, *, level: str = "info") -> None:
        self._write(text if level == "info" else f"{level}: {text}")

    def close(self, summary: RunSummary) -> None:
        for line in text.summary_lines(summary):
            self._write(line)


class QuietProgress(NullMonitor):
    """Only warnings and errors."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is not None:
            self._write(text.checkpoint_line(record))

    def note(self, text: str, *, level: str = "info") -> None:
        if level != "info":
            self._write(f"{level}: {text}")


def choose_progress(console: Console, *, quiet: bool) -> TerminalProgress | LineProgress | QuietProgress:
    """The progress monitor for the file of `console`. rich itself honours NO_COLOR."""

    def write(line: str) -> None:
        show(line, lines=True, file=console.file)

    if quiet:
        return QuietProgress(write)
    if console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter:
        return TerminalProgress(console)
    return LineProgress(write)
