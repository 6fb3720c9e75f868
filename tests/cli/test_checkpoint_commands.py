"""`dydist checkpoint list|verify|prune|copy`, as people call them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dydist.checkpoint import Manifest
from dydist.cli.main import main

SAMPLE = Path(__file__).parents[1] / "checkpoint" / "format-1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "place")
    return tmp_path / "place"


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert main(["checkpoint", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def damage(place: Path) -> None:
    file = next((place / "step-000000042").glob("model-*"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def test_list(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = call(capsys, "list", place)
    assert (found["step"], found["valid"], found["accuracy"], found["world_size"]) == (42, True, 0.875, 2)
    assert main(["checkpoint", "list", str(place)]) == 0
    shown = capsys.readouterr().out
    assert "87.50 %" in shown
    assert "valid" in shown


def test_list_of_an_empty_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list", tmp_path) == []
    assert main(["checkpoint", "list", str(tmp_path / "nothing"), "--json"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_verify(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "verify", place)[0]["valid"]
    assert call(capsys, "verify", place / "step-000000042")[0]["valid"]
    damage(place)
    (found,) = call(capsys, "verify", place, code=1)
    assert "SHA-256" in found["problem"]


def test_prune(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "prune", place, "--keep", 1) == []
    assert main(["checkpoint", "prune", str(place), "--keep", "0"]) == 2


def test_copy_is_verified_and_goes_on_after_a_cut(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    (copied,) = call(capsys, "copy", place, target)
    assert copied["copied"]
    assert call(capsys, "verify", target)[0]["valid"]
    assert not call(capsys, "copy", place, target)[0]["copied"]
    # A copy that was cut: its folder is not published, one file is torn.
    attempt = json.loads((target / "step-000000042" / "MANIFEST.json").read_text())["attempt"]
    torn = target / f".step-000000042.{attempt}.partial"
    (target / "step-000000042").rename(torn)
    (torn / "MANIFEST.json").unlink()
    file = next(torn.glob("optimizer-*"))
    file.write_bytes(file.read_bytes()[:-5])
    kept = next(torn.glob("model-*"))
    before = kept.stat().st_mtime_ns
    assert call(capsys, "copy", place, target)[0]["copied"]
    assert call(capsys, "verify", target)[0]["valid"]
    assert (target / "step-000000042" / kept.name).stat().st_mtime_ns == before, "sent again what was there"


def test_a_damaged_source_is_not_copied(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(place)
    assert main(["checkpoint", "copy", str(place), str(tmp_path / "target")]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "target" / "step-000000042").exists()


def test_a_newest_one_that_cannot_be_loaded_is_passed_over(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its manifest and sizes are right, and its state is of another step."""
    newer = place / "step-000000050"
    shutil.copytree(place / "step-000000042", newer)
    manifest = Manifest.decode((newer / "MANIFEST.json").read_bytes())
    (newer / "MANIFEST.json").write_bytes(replace(manifest, step=50).encode())
    assert [found["valid"] for found in call(capsys, "list", place)] == [True, True]
    target = tmp_path / "target"
    for arguments, code in ((), 0), (("--all-steps",), 1):
        assert main(["checkpoint", "copy", str(place), str(target), *arguments]) == code
        assert "step-000000050: state.json cannot be loaded: it is not of step 50" in capsys.readouterr().err
        assert [path.name for path in target.iterdir()] == ["step-000000042"]
    assert main(["checkpoint", "copy", str(place), str(target), "--step", "50"]) == 1
    assert "skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "nowhere"], "no checkpoint at"),
        (["copy", "nowhere/step-000000001", "there"], "no checkpoint at"),
        (["list", "place", "--storage-options", "endpoint"], "not a JSON object"),
    ],
)
def test_mistakes(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["checkpoint", *arguments]) == 2
    assert said in capsys.readouterr().err
