"""Whatever takes a run takes its folder, its checkpoints' folder, and one checkpoint's folder alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dydist.cli.main import main
from dydist.errors import UserError
from dydist.named_run import place_of, run_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "r"
    (folder / "checkpoints" / "step-000000003").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    return folder


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/", "checkpoints/step-000000003"])
def test_one_run_by_any_of_its_folders(run: Path, inside: str) -> None:
    assert run_folder(run / inside).resolve() == run.resolve()
    place, folder, _ = place_of(f"{run}/{inside}", field="url")
    assert place == str(run / "checkpoints")
    assert folder == ("step-000000003" if "step" in inside else None)


def test_the_place_that_a_run_names(run: Path) -> None:
    (run / "config.yaml").write_text("checkpoint: {url: 's3://bucket/r', storage_options: {anon: true}}")
    assert place_of(str(run), field="url") == ("s3://bucket/r", None, {"anon": True})
    assert place_of("s3://bucket/r/step-000000003/", field="url") == ("s3://bucket/r", "step-000000003", {})


@pytest.mark.parametrize("command", ["list", "verify", "prune", "copy"])
@pytest.mark.parametrize("kind", ["nothing", "file", "blank", "memory"])
def test_a_place_that_is_not_there(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    given = {"blank": " ", "memory": "memory://nowhere/at/all"}.get(kind, str(tmp_path / kind))
    if kind == "memory" and command == "prune":
        pytest.skip("nothing to prune is no mistake in a store")
    words = ["checkpoint", command, given, *([str(tmp_path / "to")] if command == "copy" else [])]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_listing_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run), "--json"]) == 0
    assert [one["step"] for one in json.loads(capsys.readouterr().out)] == [3]


def test_status_of_a_run_without_a_job(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "status.json").write_text(
        json.dumps({"state": "done", "step": 7, "total_steps": 7, "updated": 1.0})
    )
    assert main(["status", str(run), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["run"]["step"], found["name"]) == ("done", 7, "r")
    (run / "status.json").write_text(json.dumps({"state": "running", "step": 7, "updated": 1.0}))
    assert main(["status", str(run)]) == 0
    assert "lost" in capsys.readouterr().out


def test_options_that_say_a_thing_twice() -> None:
    from dydist.cli.checkpoint import parse_options

    with pytest.raises(UserError, match="'key' is there twice"):
        parse_options('{"key": "a", "key": "b"}')
