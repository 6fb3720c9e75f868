"""`dydist data prepare`, as it is typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dydist.cli.main import main
from helpers.damaged import FOLDER, write_cifar10


def test_it_converts_verifies_and_says_what_is_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cifar10(tmp_path)
    assert main(["data", "prepare", "--name", "cifar10", "--root", str(root)]) == 0
    printed = capsys.readouterr()
    assert "converting" in printed.err
    (folder,) = (root / ".dydist-cache").glob("cifar10-*/")
    for words in (
        "100 training and 20 test images of 3 × 32 × 32",
        "10: airplane",
        str(root / FOLDER),
        str(folder),
    ):
        assert words in printed.out
    assert main(["data", "prepare", "--root", str(root), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert (report["train_images"], report["test_images"], report["image_shape"]) == (100, 20, [3, 32, 32])
    assert (report["source"], report["converted"]) == (str(root / FOLDER), str(folder))


def test_a_conversion_with_a_flipped_bit_is_named_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cifar10(tmp_path)
    arguments = ["data", "prepare", "--root", str(root)]
    main(arguments)
    (path,) = (root / ".dydist-cache").glob("cifar10-*/train-images.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    capsys.readouterr()
    assert main(arguments) == 0
    assert "train-images.npy changed since it was written" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_data_that_needs_no_files_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "--name", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "1,437 training and 360 test images of 3 × 8 × 8" in printed
    assert "nothing to keep" in printed
    assert main(["data", "prepare", "--name", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["converted"] is None


def test_damage_ends_with_exit_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cifar10(tmp_path)
    os.truncate(root / FOLDER / "test_batch", 1_000)
    assert main(["data", "prepare", "--root", str(root)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert "test_batch is not a file of cifar10" in error[-1]
    assert "Move it away" in error[-1]


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "--help"])
    assert ended.value.code == 0
    assert "dydist data prepare --name cifar10" in " ".join(capsys.readouterr().out.split())
