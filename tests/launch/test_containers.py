"""The container definitions name what pyproject.toml names. Nothing here can build them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.support import REPOSITORY

FOLDER = REPOSITORY / "launch" / "containers"
FILES = ("Dockerfile", "dydist.def")
NOT_FOR_RUNS = {"docs", "slurm", "test"}
"""Extras for developing dydist, and one that is empty."""
PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def text(name: str) -> str:
    """The file without its comments."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def extras() -> set[str]:
    section = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", PROJECT, re.DOTALL | re.MULTILINE)
    assert section is not None
    return set(re.findall(r"^(\w+) = \[", section[1], re.MULTILINE))


def test_the_folder_holds_these_files() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_python_extras_constraints_and_packages_are_the_projects(name: str) -> None:
    (version,) = re.findall(r"^F(?:ROM|rom:) python:(\d\.\d+)-slim-\w+$", text(name), re.MULTILINE)
    assert f'"Programming Language :: Python :: {version}"' in PROJECT
    (named,) = re.findall(r'"/opt/dydist\[([\w,]+)\]"', text(name))
    assert set(named.split(",")) == extras() - NOT_FOR_RUNS
    assert named == ",".join(sorted(named.split(",")))
    (constraints,) = re.findall(r"--constraint /opt/dydist/(\S+)", text(name))
    assert (REPOSITORY / constraints).is_file()
    (system,) = re.findall(
        r"apt-get install --yes --no-install-recommends ([\w+ -]+?)\s*\\?$", text(name), re.MULTILINE
    )
    assert system.split() == ["g++", "git", "openssh-client"]
    assert "g++" in (REPOSITORY / "dydist/models/strategies/native/build.py").read_text(encoding="utf-8")


def test_only_these_are_copied() -> None:
    """A working folder also has an environment, data, runs and files of secrets."""
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n*\n")[1].splitlines()
    copied = {line[1:] for line in ignored if line.startswith("!")}
    assert set(ignored) - {f"!{name}" for name in copied} == {"**/__pycache__"}
    files = re.search(r"^%files\n(.*?)^%", text("dydist.def"), re.DOTALL | re.MULTILINE)
    assert files is not None
    assert dict(line.split() for line in files[1].strip().splitlines()) == {
        name: f"/opt/dydist/{name}" for name in copied
    }
    assert all((REPOSITORY / name).exists() for name in copied)
    needed = set(re.findall(r'"(README.md|LICENSE)"', PROJECT)) | {
        "dydist",
        "pyproject.toml",
        "constraints.txt",
    }
    linked = {
        path.resolve().relative_to(REPOSITORY).parts[0] for path in (REPOSITORY / "dydist/files").iterdir()
    }
    assert copied == needed | linked


def test_both_are_of_one_python() -> None:
    assert len({re.findall(r"python:\S+", text(name))[0] for name in FILES}) == 1


def test_the_files_say_that_they_were_not_built() -> None:
    for path in FOLDER.iterdir():
        assert "Not built by dydist's own tests" in Path(path).read_text(encoding="utf-8")
