"""Files that come with the package: recipes and Accelerate configurations (launch/), SLURM profiles (slurm/).

In a checkout dydist/files/ holds links to the repository's own folders, in a wheel it holds copies: one way to find
them, wherever dydist runs.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "files"
RECIPES = "launch/recipes"


def shipped_files() -> dict[str, Path]:
    """Every file by its path in the repository, such as `launch/recipes/quickstart.yaml`, in order."""
    found = [path for folder in ("launch", "slurm") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(found) if path.suffix != ".pyc"}


def find_file(given: str, folder: str = "") -> Path:
    """The file that a user names: a path; or one of ours, by its path in the repository or its bare name.

    `folder` narrows bare names down: with `RECIPES`, `quickstart` is launch/recipes/quickstart.yaml. A file that is
    there comes first. What is nowhere comes back as the path it was given, for the caller to tell.
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
