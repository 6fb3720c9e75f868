"""Weights & Biases, through its own client: https://docs.wandb.ai/ref/python.

W&B keeps each step once: a step below the newest is dropped. Online it says which step comes next. An offline run is
a folder per start, of which only whole ones can be uploaded (`wandb sync`), and a kill truncates its file; so a start
writes the whole history again, into one new folder, and at its end removes those before it that hold no earlier step.
"""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.monitor.trackers.protocol import TrackedRun

_FIRST = "first-step"
"""A file in the folder of an offline run: the first step that it holds."""


class WandbTracker:
    """One run of W&B. Project, entity, key, server and mode are those of the WANDB_* variables or `wandb login`."""

    place = ""

    def start(self, run: TrackedRun) -> int | None:
        import wandb

        folder = Path(os.environ.get("WANDB_DIR") or run.folder)
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,  # host, user and arguments
            x_disable_stats=True,
            silent=True,
        )
        self._offline = wandb.setup(settings).settings._offline
        self._older = list(folder.glob(f"wandb/offline-run-*-{run.id}")) if self._offline else []
        self._first: int | None = None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "dydist",
            id=run.id,
            name=run.name,
            dir=folder,
            config={**run.config, **({"dydist.replaces": run.replaces} if run.replaces else {})},
            allow_val_change=True,
            resume=None if self._offline else "allow",
            reinit="finish_previous",
            settings=settings,
        )
        self._folder = Path(self._run.dir).parent
        self.place = self._run.url or str(self._folder)
        return self._run.starting_step - 1 if self._run.resumed else None

    def log(self, step: int, time: float, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        import wandb
        from PIL import Image

        if self._first is None:
            self._first = step
            if self._offline:
                (self._folder / _FIRST).write_text(str(step), encoding="utf-8")

        values: dict[str, Any] = {"_timestamp": time, **scalars}
        values |= {tag: wandb.Image(Image.open(io.BytesIO(png))) for tag, png in images.items()}
        self._run.log(values, step=step, commit=True)

    def finish(self, state: str) -> None:
        import wandb

        self._run.finish(exit_code=1 if state == "failed" else 0)
        wandb.teardown()  # waits until wandb-core has written an offline run's file
        for old in self._older:
            if self._first is not None and old.name != self._folder.name and _first_step(old) >= self._first:
                shutil.rmtree(old, ignore_errors=True)


def _first_step(folder: Path) -> float:
    """The first step of an offline run; infinite if it has none."""
    path = folder / _FIRST
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return int(text) if text else math.inf
