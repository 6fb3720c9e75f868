"""Records as short lines: at most 80 columns, without control codes."""

from __future__ import annotations

from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord


def duration(seconds: float | None) -> str:
    """h:mm:ss, with days if any; -:--:-- if unknown."""
    if seconds is None:
        return "-:--:--"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def wait_share(record: StepRecord) -> float:
    """Share of the step's time spent waiting for data, 0 to 1."""
    return min(1.0, record.data_wait_s / record.step_s) if record.step_s > 0 else 0.0


def figures(record: StepRecord) -> str:
    """The metrics of a logged step, without its position in the run."""
    return (
        f"loss {record.loss:.4g}  acc {record.accuracy:.1%}  lr {record.lr:.3g}  T {record.temperature:.3g}"
        f"  {record.images_per_s:.0f} img/s  wait {wait_share(record):.1%}"
    )


def step_line(record: StepRecord, *, eta_s: float | None) -> str:
    """A logged step as a line of a log file; epochs are counted from 1 here."""
    return (
        f"{record.step} ep {record.epoch + 1} loss {record.loss:.4g} acc {100 * record.accuracy:.3g}%"
        f" lr {record.lr:.2g} T {record.temperature:.3g} {record.images_per_s:.0f} img/s"
        f" wait {wait_share(record):.0%} ETA {duration(eta_s)}"
    )


def evaluation_line(record: EvaluationRecord) -> str:
    """An evaluation as a line."""
    which = f"{record.split} (ema)" if record.ema else record.split
    return (
        f"{which} after step {record.step}: accuracy {record.accuracy:.2%}, loss {record.loss:.4g}"
        f" ({record.images} images in {record.seconds:.1f} s)"
    )


def checkpoint_line(record: CheckpointRecord) -> str:
    """A save, committed or failed, as a line."""
    if record.error is not None:
        return f"saving step {record.step} to {record.url} failed: {record.error}; training goes on"
    took = f"{size(record.bytes)} in {record.commit_s:.1f} s, loop paused {record.pause_s:.2f} s"
    return f"saved step {record.step}: {took}"


def start_line(step: int, total_steps: int) -> str | None:
    """The line of a start; None if no step is left."""
    if step >= total_steps:
        return None
    return f"going on from step {step} of {total_steps}" if step else f"training for {total_steps} steps"


def summary_lines(summary: RunSummary) -> list[str]:
    """The summary of a run: state, step, duration, accuracy and locations.

    The message is left out: it is printed on standard error, once.
    """
    lines = [f"{summary.state}: step {summary.step} of {summary.total_steps} in {duration(summary.seconds)}"]
    if summary.last_accuracy is not None:
        on = ", on the test split" if summary.split == "test" else ""
        best = "" if summary.best_accuracy is None else f" (best {summary.best_accuracy:.2%}{on})"
        lines.append(f"{summary.split} accuracy {summary.last_accuracy:.2%}{best}")
    if summary.test_accuracy is not None:
        lines.append(f"test accuracy {summary.test_accuracy:.2%}")
    width = max((len(name) for name in summary.places), default=0)
    return [*lines, *(f"  {name:<{width}}  {place}" for name, place in summary.places.items())]
