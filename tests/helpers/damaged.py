"""Small folders in the published CIFAR layouts, and the ways in which such folders come damaged.

`DAMAGED` is the table: tests of the reader and of a whole run go through the same rows.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "cifar-10-batches-py"
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def batch(rng: np.random.Generator, count: int = 20, classes: int = 10) -> dict[bytes, Any]:
    """The dict of one CIFAR-10 file: `count` images of noise."""
    return {
        b"batch_label": b"a batch",
        b"labels": rng.integers(0, classes, count).tolist(),
        b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"%d.png" % number for number in range(count)],
    }


def write(path: Path, content: object, protocol: int = 2) -> None:
    """Pickle as the published files are (protocol 2)."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def write_cifar10(root: Path, count: int = 20) -> Path:
    """A whole CIFAR-10 folder under `root`, `count` images a file. Returns `root`."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write(folder / name, batch(rng, count))
    write(folder / "batches.meta", {b"num_cases_per_batch": count, b"label_names": [n.encode() for n in TEN]})
    return root


def _edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Write one file anew with some entries changed (or left out: None)."""

    def damage(folder: Path) -> None:
        content = batch(np.random.default_rng(1)) | {key.encode(): value for key, value in changes.items()}
        write(folder / name, {key: value for key, value in content.items() if value is not None})

    return damage


class _MakesFolder:
    """Unpickled without care, this makes the folder `executed` in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _truncate(folder: Path) -> None:
    os.truncate(folder / "data_batch_3", 30_000)


def _lose_meta(folder: Path) -> None:
    (folder / "batches.meta").unlink()


def _lose_test(folder: Path) -> None:
    (folder / "test_batch").unlink()


def _lose_all(folder: Path) -> None:
    shutil.rmtree(folder)


def _folder_for_file(folder: Path) -> None:
    (folder / "test_batch").unlink()
    (folder / "test_batch").mkdir()


def _file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _file_for_root(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.write_text("not a folder")


@dataclass(frozen=True)
class Damaged:
    """One way of damage: `damage` gets the whole folder of the data files; the message holds all of `says`."""

    name: str
    damage: Callable[[Path], None]
    says: tuple[str, ...]


DAMAGED = (
    Damaged(
        "nothing there", _lose_all, (FOLDER, "is missing", "data.download is false", "cifar-10-python.tar.gz")
    ),
    Damaged("an empty folder", _empty, (FOLDER, "is missing", "data.download is false")),
    Damaged("a file for data.root", _file_for_root, ("data.root: ", "is not a folder", "Move it away")),
    Damaged("no test batch", _lose_test, ("lacks test_batch", "move it away", "cifar-10-python.tar.gz")),
    Damaged("no class names", _lose_meta, ("lacks batches.meta", "cifar-10-python.tar.gz")),
    Damaged("cut short", _truncate, ("data_batch_3", "is not a file of cifar10", "Move it away")),
    Damaged(
        "empty file",
        lambda folder: os.truncate(folder / "test_batch", 0),
        ("test_batch", "empty, cut short or broken"),
    ),
    Damaged("a folder for a file", _folder_for_file, ("test_batch is a folder", "expected a file")),
    Damaged("a file for the folder", _file_for_folder, (FOLDER, "lacks data_batch_1", "move it away")),
    Damaged(
        "not a pickle",
        lambda folder: (folder / "data_batch_1").write_bytes(b"<html>404 not found</html>"),
        ("data_batch_1", "is not a file of cifar10"),
    ),
    Damaged(
        "hostile pickle",
        lambda folder: write(folder / "data_batch_2", _MakesFolder()),
        ("data_batch_2", "asks for posix.mkdir", "which a data file has no use for"),
    ),
    Damaged(
        "hostile value",
        lambda folder: write(folder / "test_batch", {b"data": _MakesFolder(), b"labels": [0]}),
        ("test_batch", "asks for posix.mkdir"),
    ),
    Damaged(
        "a list, no dict", lambda folder: write(folder / "test_batch", [1]), ("holds a list, not a dict",)
    ),
    Damaged(
        "images of another size",
        _edit("data_batch_4", data=np.zeros((20, 784), np.uint8)),
        ("data_batch_4", "uint8 20×784", "expected uint8 n×3072"),
    ),
    Damaged(
        "floats for bytes",
        _edit("data_batch_4", data=np.zeros((20, 3072), np.float32)),
        ("data_batch_4", "float32 20×3072", "expected uint8"),
    ),
    Damaged("no images", _edit("test_batch", data=np.zeros((0, 3072), np.uint8), labels=[]), ("n ≥ 1",)),
    Damaged("no data", _edit("test_batch", data=None), ("no array `data`", "'labels'")),
    Damaged("no labels", _edit("data_batch_5", labels=None), ("data_batch_5", "no list `labels`")),
    Damaged(
        "labels of text", _edit("data_batch_5", labels=["cat"] * 20), ("no list `labels` of whole numbers",)
    ),
    Damaged("too few labels", _edit("data_batch_5", labels=[1] * 19), ("19 labels for 20 images",)),
    Damaged("label too high", _edit("data_batch_5", labels=[9] * 19 + [10]), ("label 10 is outside 0..9",)),
    Damaged("label below 0", _edit("test_batch", labels=[-1] * 20), ("label -1 is outside 0..9",)),
    Damaged(
        "other classes",
        lambda folder: write(folder / "batches.meta", {b"label_names": [b"cat"] * 9}),
        ("batches.meta", "names 9 classes, expected 10"),
    ),
    Damaged(
        "class names of another kind",
        lambda folder: write(folder / "batches.meta", {b"fine_label_names": [b"cat"] * 10}),
        ("batches.meta", "label_names is missing"),
    ),
)
