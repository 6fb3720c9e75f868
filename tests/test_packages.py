"""Each folder's `__init__` is its table of contents."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from support import REPOSITORY

PACKAGES = sorted(path.parent for path in (REPOSITORY / "dydist").rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_file_is_named_in_its_package(package: Path) -> None:
    text = (package / "__init__.py").read_text(encoding="utf-8")
    told = [*re.findall(r"`[^`]+`", text), *re.findall(r"^from .*", text, re.MULTILINE)]
    named = set(re.findall(r"\w[\w*]*", " ".join(told)))
    files = {path.stem for path in package.glob("*.py")} - {"__init__"}
    files |= {path.parent.name for path in package.glob("*/__init__.py")}
    missing = {name for name in files if not any(fnmatch(name, pattern) for pattern in named)}
    assert not missing, f"{package / '__init__.py'} says nothing of {sorted(missing)}"
