"""Finds image files by name, folder or pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dydist.data.picture import SUFFIXES


def find_pictures(given: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(path, None) for each image file, or (argument, problem), in order.

    A folder means its PNG, JPEG and WebP files, recursively, without hidden ones and those that macOS adds to archives
    (`._IMG.png`, `__MACOSX`); a pattern (`*`, `?`, `[…]`, `**`) means the files that match.
    """
    for one in given:
        if os.path.isdir(one):
            inside = sorted(
                str(path)
                for path in Path(one).rglob("*")
                if path.suffix.lower() in SUFFIXES and not _hidden(path.relative_to(one)) and path.is_file()
            )
            yield from ((path, None) for path in inside)
            if not inside:
                yield one, f"the folder holds no {' or '.join(SUFFIXES)} file"
        elif os.path.lexists(one) or not glob.has_magic(one):
            yield one, None
        else:
            matched = sorted(path for path in glob.glob(one, recursive=True) if os.path.isfile(path))
            yield from ((path, None) for path in matched)
            if not matched:
                yield one, "the pattern matches no file"


def _hidden(inside: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
