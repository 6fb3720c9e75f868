"""Training runs of a tiny network on a few digits."""

from __future__ import annotations

from pathlib import Path

from dydist.checkpoint import open_storage, survey
from helpers.support import REPOSITORY

PER_EPOCH = 6
FEW_STEPS = 6
FEW = (
    *("--train.max_steps", FEW_STEPS, "--checkpoint.every_steps", "3"),
    *("--data.limit", "128", "--train.batch_size", "32", "--train.epochs", "8"),
)


def flags(runs: Path, name: str, *more: object) -> list[object]:
    """A tiny network on 384 digits: two epochs."""
    return [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", runs, "--run.name", name),
        *("--train.epochs", "2", "--temperature.epochs", "1"),
        *("--model.width", "0.0625", "--monitor.every_steps", "1"),
        *("--parallel.threads", "1", "--data.limit", 64 * PER_EPOCH),
        *more,
    ]


def steps_saved(run_dir: Path) -> list[int]:
    return sorted(found.step for found in survey(open_storage(str(run_dir / "checkpoints"))))


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the log of what happened to it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "events.jsonl"
    }
