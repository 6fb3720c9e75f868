"""A wrong `checkpoint.url` is told in one line before data is read; what may pass is left to the start, which waits."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from dydist.checkpoint import _first_look, refuse_unusable
from dydist.train import main

UNUSABLE = {
    "missing bucket": ("s3://nowhere/a", "there is no bucket 'nowhere'"),
    "no such host": ("ftp://nowhere.invalid/a", "the place cannot be used"),
    "a file in the way": ("{tmp}/file/a", "the place cannot be used"),
    "not a disk": ("/proc/x/a", "the place cannot be used"),
}


def start(tmp_path: Path, *flags: str) -> int:
    """A start whose data is missing, too."""
    data = ["--data.name", "cifar10", "--data.root", str(tmp_path / "no-data"), "--data.download", "false"]
    return main([*data, "--run.dir", str(tmp_path / "runs"), *flags])


@pytest.mark.parametrize("name", UNUSABLE)
def test_it_is_told_before_the_data_is_read(
    name: str, tmp_path: Path, s3_server: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    url, said = UNUSABLE[name]
    url = url.format(tmp=tmp_path)
    options = ["--checkpoint.storage_options", json.dumps(s3_server)] if url.startswith("s3") else []
    assert start(tmp_path, "--checkpoint.url", url, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dydist: checkpoint.url: ")
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_can_be_made_is_not_made_before_the_data_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(tmp_path, "--checkpoint.url", str(tmp_path / "place" / "a")) == 2
    assert "data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_answer_is_left_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_first_look, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refuse_unusable(f"ftp://127.0.0.1:{silent.getsockname()[1]}/a")
        refuse_unusable("s3://bucket/a", {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"})
