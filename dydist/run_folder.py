"""A run's folder: made and claimed at a start, and given the configuration of the steps that are done with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dydist.config import Config
from dydist.config_reader import dump_yaml, to_dict
from dydist.engine import World
from dydist.errors import UserError
from dydist.monitor.files import replace_file
from dydist.redaction import redacted


def make_run_folder(config: Config, world: World) -> Path:
    """The run folder, made by process 0; all processes raise UserError where it cannot be written."""
    run_dir = Path(config.run.dir) / config.run.name
    problem = None
    if world.rank == 0:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            probe = run_dir / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            problem = f"run.dir: cannot write {run_dir} ({error.strerror}); give a folder that can be written"
    if (problem := world.broadcast(problem)) is not None:
        raise UserError(problem)
    return run_dir


def public_values(config: Config) -> dict[str, Any]:
    """Every value by section, without secrets: what config.yaml, state.json and the logs show."""
    return to_dict(redacted(config))


class Provenance:
    """config.yaml: the configuration of the newest step of the run.

    `values`: the configuration of this start, as `public_values` has it. `start`: the step that it goes on from. That
    of a new run is written at once, that of one that goes on after its first step: until then nothing was done with it.
    """

    def __init__(
        self, run_dir: Path, values: Mapping[str, Any], *, start: int, tell: Callable[[str], None]
    ) -> None:
        self._run_dir, self._values, self._start, self._tell = run_dir, values, start, tell
        self._written = self._told = False
        if start == 0:
            self._write()

    def reached(self, step: int) -> None:
        """Step `step` is done. Costs nothing after the first."""
        if not self._written and step > self._start:
            self._write()

    def _write(self) -> None:
        try:
            replace_file(self._run_dir / "config.yaml", dump_yaml(self._values).encode())
            self._written = True
        except OSError as error:  # a full disk may have room at the next step; training goes on
            if not self._told:
                self._tell(f"config.yaml cannot be written ({error.strerror}); trying again after every step")
            self._told = True
