"""What runs is the code as it was at submission."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from dydist.errors import UserError
from dydist.jobs.submission.snapshot import copy_module, record_environment, take_snapshot


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with a changed, a new, an ignored and an unrelated new file."""
    root = tmp_path / "checkout"
    (root / "dydist").mkdir(parents=True)
    (root / "dydist" / "a.py").write_text("old = 1\n")
    (root / ".gitignore").write_text("*.pyc\n")

    def git(*words: str) -> None:
        author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *author, *words], cwd=root, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (root / "dydist" / "a.py").write_text("new = 1\n")
    (root / "dydist" / "added.py").write_text("")
    (root / "dydist" / "a.pyc").write_text("")
    (root / "notes.txt").write_text("")
    return root


def test_tracked_changed_and_new_files_of_the_package(checkout: Path, tmp_path: Path) -> None:
    record = take_snapshot(checkout, tmp_path / "s")
    code = tmp_path / "s" / "code"
    copied = sorted(str(path.relative_to(code)) for path in code.rglob("*") if path.is_file())
    assert copied == [".gitignore", "dydist/a.py", "dydist/added.py"]
    (checkout / "dydist" / "a.py").write_text("newer = 1\n")
    assert (code / "dydist" / "a.py").read_text() == "new = 1\n"
    assert record["dirty"]
    assert len(record["commit"]) == 40
    assert "+new = 1" in (tmp_path / "s" / "changes.diff").read_text()
    assert json.loads((tmp_path / "s" / "snapshot.json").read_text()) == record


def test_changes_that_are_not_utf_8_are_recorded_as_they_are(checkout: Path, tmp_path: Path) -> None:
    (checkout / "dydist" / "a.py").write_bytes(b"# caf\xe9\n")
    take_snapshot(checkout, tmp_path / "s")
    assert b"+# caf\xe9\n" in (tmp_path / "s" / "changes.diff").read_bytes()
    apply = ["git", "apply", "-R", str(tmp_path / "s" / "changes.diff")]
    subprocess.run(apply, cwd=checkout, check=True)
    assert (checkout / "dydist" / "a.py").read_text() == "old = 1\n"


def test_changes_that_end_with_a_binary_file_can_be_applied(checkout: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "checkout", "dydist/a.py"], cwd=checkout, check=True, capture_output=True)
    (checkout / ".gitignore").write_bytes(bytes(range(256)))
    take_snapshot(checkout, tmp_path / "s")
    apply = ["git", "apply", "-R", str(tmp_path / "s" / "changes.diff")]
    subprocess.run(apply, cwd=checkout, check=True)
    assert (checkout / ".gitignore").read_text() == "*.pyc\n"


def test_a_deleted_file_is_left_out(checkout: Path, tmp_path: Path) -> None:
    (checkout / "dydist" / "a.py").unlink()
    take_snapshot(checkout, tmp_path / "s")
    assert not (tmp_path / "s" / "code" / "dydist" / "a.py").exists()


def test_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "site" / "dydist").mkdir(parents=True)
    (tmp_path / "site" / "dydist" / "a.py").write_text("")
    (tmp_path / "site" / "other.py").write_text("")
    record = take_snapshot(tmp_path / "site", tmp_path / "s")
    assert "commit" not in record
    assert [path.name for path in (tmp_path / "s" / "code").rglob("*.py")] == ["a.py"]


def test_a_snapshot_has_a_limit_and_copies_nothing_beyond(checkout: Path, tmp_path: Path) -> None:
    (checkout / "dydist" / "data.bin").write_bytes(bytes(2 << 20))
    with pytest.raises(UserError, match=r"2 MiB, 1 MiB are allowed; take .* dydist/data.bin \(2 MiB\)"):
        take_snapshot(checkout, tmp_path / "s", limit_bytes=1 << 20)
    assert not (tmp_path / "s").exists()


def test_the_environment_is_recorded_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    record_environment(tmp_path)
    text = (tmp_path / "environment.json").read_text()
    assert "hidden" not in text
    assert json.loads(text)["variables"]["NCCL_DEBUG"] == "INFO"
    assert "torch" in json.loads(text)["packages"]


def test_a_module_that_is_too_large_names_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scans.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data\.factory: my_scans is"):
        copy_module("my_scans", tmp_path / "s" / "code", field="data.factory", limit_bytes=1)


def test_modules_of_the_user_are_copied_and_those_of_the_environment_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dist-packages/system_module").mkdir(parents=True)
    (tmp_path / "dist-packages/system_module/__init__.py").touch()
    for place in ("here", "there"):  # a namespace package has no __init__.py, and may be in two places
        (tmp_path / place / "spaced/deep").mkdir(parents=True)
        (tmp_path / place / f"spaced/deep/{place}.py").write_text(place)
        monkeypatch.syspath_prepend(tmp_path / place)
    (tmp_path / "here/alone.py").write_text("alone")
    (tmp_path / "here/whole").mkdir()
    (tmp_path / "here/whole/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "dist-packages")
    real = sysconfig.get_paths()
    # as with Python in /usr, where a home may be
    monkeypatch.setattr(sysconfig, "get_paths", lambda *_: {**real, "data": str(tmp_path)})
    target = tmp_path / "target"
    copied = [
        copy_module(name, target / "code", field="model.factory") for name in ("spaced", "alone", "whole")
    ]
    assert copied == [True] * 3
    assert not any(
        copy_module(name, target / "code", field="model.factory")
        for name in ("system_module", "os", "sys", "torch", "nowhere")
    )
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*.py")) == [
        "code/alone.py",
        "code/spaced/deep/here.py",
        "code/spaced/deep/there.py",
        "code/whole/__init__.py",
    ]
