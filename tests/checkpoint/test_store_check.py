"""A wrong place is told in one line before data is read; what may pass is left to the start, which waits."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dydist.checkpoint import _store_check, check_store
from dydist.config.reader import read_config
from dydist.errors import UserError
from dydist.run.assemble import check_places
from dydist.train import main

STORES = ("checkpoint.url", "checkpoint.resume", "monitor.logdir")
FOLDERS = ("run.dir", *STORES)
UNUSABLE = {
    # place: what is said of it for run.dir, and for the others
    "s3://nowhere/a": (STORES, "there is no bucket 'nowhere'"),
    "ftp://nowhere.invalid/a": (STORES, "the place cannot be used"),
    "{tmp}/file/a": (FOLDERS, "Not a directory"),
    "{tmp}/file": (FOLDERS, "Not a directory"),
    "/proc/x/a": (FOLDERS, "No such file or directory"),
    "{tmp}/step-000000004/a": (FOLDERS, "lies inside a checkpoint, step-000000004"),
    "s3:/b/x": (FOLDERS, "'s3:/b/x' is "),
    "file:rel/x": (FOLDERS, "'file:rel/x' is "),
    "s3://": (FOLDERS, "'s3://"),
    " ": (FOLDERS, "is empty"),
}
TAKEN_FOR_EMPTY = {("checkpoint.resume", place) for place in ("{tmp}/file", "{tmp}/file/a", "/proc/x/a")}
"""What is read alone is a place without a checkpoint there."""


def start(tmp_path: Path, *flags: str) -> int:
    """A start whose data is missing, too."""
    data = ["--data.name", "cifar10", "--data.root", str(tmp_path / "no-data"), "--data.download", "false"]
    return main([*data, "--run.dir", str(tmp_path / "runs"), *flags])


@pytest.mark.parametrize(
    ("field", "place"), [(field, place) for place, (fields, _) in UNUSABLE.items() for field in fields]
)
def test_it_is_told_before_the_data_is_read(
    field: str, place: str, tmp_path: Path, s3_server: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    options = ["--checkpoint.storage_options", json.dumps(s3_server)] if place == "s3://nowhere/a" else []
    assert start(tmp_path, f"--{field}", place.format(tmp=tmp_path), *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.removeprefix("dydist: ").removeprefix("--").startswith(f"{field}: ")
    said = "no valid checkpoint at" if (field, place) in TAKEN_FOR_EMPTY else UNUSABLE[place][1]
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_option_that_a_store_refuses_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint.storage_options", "{endpoint_url: nonsense}"]
    assert start(tmp_path, "--checkpoint.url", "s3://bucket/a", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "dydist: checkpoint.url: the place cannot be used: " in line
    assert "Invalid endpoint: nonsense" in line


def test_a_log_and_a_source_that_are_gone_matter_at_the_first_start_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint.resume", str(tmp_path / "gone"), "--monitor.logdir", "/proc/x/a"]
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "run.json").write_text("{}")
    assert start(tmp_path, *flags) == 2
    assert "data" in capsys.readouterr().err


def test_a_place_that_can_be_made_is_not_made_before_the_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, "--checkpoint.url", str(tmp_path / "place" / "a")) == 2
    assert "data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", FOLDERS)
def test_every_process_of_the_first_node_looks(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a launcher that ends it, another process would wait for the first one, which is gone."""
    config = read_config(
        [f"--{field}", "/proc/x/a", *([] if field == "run.dir" else ["--run.dir", str(tmp_path)])]
    )
    ranks = {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=field):
        check_places(config)
    monkeypatch.setenv("RANK", "3")
    with nullcontext() if field != "checkpoint.url" else pytest.raises(UserError, match=field):
        check_places(config)  # folders of another node may be other folders


def test_a_store_that_does_not_answer_is_left_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store_check, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check_store(f"ftp://127.0.0.1:{silent.getsockname()[1]}/a")
        check_store("s3://bucket/a", {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"})
