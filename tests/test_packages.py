"""Each folder's `__init__` is its table of contents, and packages import in one direction."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from helpers.support import REPOSITORY

ORDER = """
    errors user_function private_files records randomness text machine storage config schedules process data models
    checkpoint named_run monitor engine compare inference run train check jobs bench cli
""".split()
"""Each may import those before it. docs/design.md has the picture."""
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


def imported(path: Path) -> set[str]:
    """The names of ours that a file imports anywhere in it: dydist.NAME."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dydist":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dydist.")}
    return found


@pytest.mark.parametrize("name", ORDER)
def test_nothing_imports_upward(name: str) -> None:
    top = REPOSITORY / "dydist"
    files = list((top / name).rglob("*.py")) or [top / f"{name}.py"]
    allowed = {*ORDER[: ORDER.index(name) + 1], "__version__"}
    wrong = {str(path.relative_to(top)): sorted(imported(path) - allowed) for path in files}
    assert not {path: names for path, names in wrong.items() if names}


def test_the_order_has_every_package() -> None:
    there = {
        path.stem
        for path in (REPOSITORY / "dydist").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("guide", ["run/assemble.py", "cli/main.py", "jobs/decide.py", "process/stop.py"])
def test_files_that_a_docstring_sends_to_are_there(guide: str) -> None:
    top = REPOSITORY / "dydist"
    text = ast.get_docstring(ast.parse((top / guide).read_text(encoding="utf-8"))) or ""
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert named
    folders = (top, top / guide.split("/", maxsplit=1)[0])
    assert not [name for name in named if not any((folder / name).exists() for folder in folders)]


def test_each_package_can_be_imported_alone() -> None:
    """Each in an interpreter that has imported nothing else of ours."""
    code = "import importlib, sys; importlib.import_module('dydist.' + sys.argv[1])"
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        for name in ORDER
        if name not in ("engine", "models", "inference")  # they import torch, as every test of theirs does
    }
    told = {name: process.communicate()[1] for name, process in started.items() if process.wait() is not None}
    assert not {name: text for name, text in told.items() if started[name].returncode}, told
