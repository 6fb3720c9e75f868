"""A program of the user's own that calls `dydist.train`: what it would train, and the copy of it that a job runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dydist.config import Config
from dydist.config.reader import from_dict
from dydist.errors import UserError
from dydist.jobs.submission.snapshot import copy_module, package_root
from dydist.train import DESCRIPTION

LIMIT_S = 600.0
"""Seconds that a program may take until it calls `dydist.train`."""


@dataclass(frozen=True)
class Script:
    """`path`: the program. `modules`: the top-level modules beside it, imported when it called `dydist.train`."""

    path: Path
    modules: tuple[str, ...]

    def copy(self, folder: Path) -> Path:
        """Copy the program and its modules to `folder`; returns the copy's path."""
        copy = copied_to(self.path, folder)
        copy.parent.mkdir(parents=True)
        shutil.copy2(self.path, copy)  # with its mode: it may hold a secret
        for name in self.modules:
            copy_module(name, copy.parent, field="submit", places=[str(self.path.parent)])
        return copy


def copied_to(script: Path, folder: Path) -> Path:
    """Where `Script.copy` puts a program."""
    return folder / "script" / script.name


def ask(script: Path, flags: Sequence[str]) -> tuple[Config, Script]:
    """Run `script` with `flags` until it calls `dydist.train`, which describes the run and ends the program.

    Raises UserError if the program fails before, does not call it, or its configuration is wrong.
    """
    if not script.is_file():
        raise UserError(f"submit: there is no program {script}; give the path of a Python file")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "description.json"
        places = os.pathsep.join(filter(None, [str(package_root()), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, DESCRIPTION: str(file), "PYTHONPATH": places}
        try:
            done = subprocess.run(
                [sys.executable, str(script), *flags],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"submit: {script} did not call dydist.train within {LIMIT_S:.0f} s; it is run here up to that call, "
                "so leave long work to the functions that it passes"
            ) from None
        if not file.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"submit: {script} ended with exit code {done.returncode} before it called dydist.train"
                + ("".join(f"\n  {line}" for line in lines[-5:]) or "; is the call in it, and reached?")
            )
        described = json.loads(file.read_text(encoding="utf-8"))
    return from_dict(described["config"], str(script)), Script(script.absolute(), tuple(described["modules"]))
