"""Files in the package: recipes and Accelerate configurations (launch/), SLURM profiles (slurm/).

In a checkout dydist/files/ contains links to the repository's folders, in a wheel copies, so that they are found in
the same way.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "files"
RECIPES = "launch/recipes"


def shipped_files() -> dict[str, Path]:
    """All files by their path in the repository, such as `launch/recipes/quickstart.yaml`, in order."""
    found = [path for folder in ("launch", "slurm") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(found) if path.suffix != ".pyc"}


def find_file(given: str, folder: str = "") -> Path:
    """The file that a user names: a path, or a file of the package by its path in the repository or its bare name.

    `folder` narrows bare names down: with `RECIPES`, `quickstart` is launch/recipes/quickstart.yaml. An existing path
    has precedence. A name that is not found is returned as a path, for the caller's error message.
    """
    path = Path(os.path.expanduser(given))
    if path.is_file():
        return path
    if given in (files := shipped_files()):
        return files[given]
    names = {
        file.stem: file for name, file in files.items() if name.startswith(folder) and file.suffix == ".yaml"
    }
    return names.get(given, path)
