"""Weights & Biases, through its own client: https://docs.wandb.ai/ref/python.

W&B keeps each step once: a step below the newest is dropped. Online it says which step comes next. An offline run is
a folder per start, of which only whole ones can be uploaded (`wandb sync`), and a kill truncates its file; so a start
writes the whole history again, into one new folder, and removes those before it.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.monitor.trackers.protocol import TrackedRun


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
        offline = wandb.setup(settings).settings._offline
        if offline:
            for old in folder.glob(f"wandb/offline-run-*-{run.id}"):
                shutil.rmtree(old, ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "dydist",
            id=run.id,
            name=run.name,
            dir=folder,
            config={**run.config, **({"dydist.replaces": run.replaces} if run.replaces else {})},
            allow_val_change=True,
            resume=None if offline else "allow",
            reinit="finish_previous",
            settings=settings,
        )
        self.place = self._run.url or str(Path(self._run.dir).parent)
        return self._run.starting_step - 1 if self._run.resumed else None

    def log(self, step: int, time: float, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        import wandb
        from PIL import Image

        values: dict[str, Any] = {"_timestamp": time, **scalars}
        values |= {tag: wandb.Image(Image.open(io.BytesIO(png))) for tag, png in images.items()}
        self._run.log(values, step=step, commit=True)

    def finish(self, state: str) -> None:
        self._run.finish(exit_code=1 if state == "failed" else 0)
