"""Converting once a node: shared, quick the second time, and never half-made, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest

from dydist.config import DataConfig
from dydist.data import ImageDataset, open_dataset
from dydist.data.cache import sweep, verify_cached
from dydist.data.description import DataDescription
from dydist.errors import UserError
from helpers.damaged import FOLDER, batch, write, write_cifar10

SCRIPT = """
import os, signal, sys, time
from dydist.config import DataConfig
from dydist.data import open_dataset

def tell(text):
    print(text, flush=True)
    if kill_at and kill_at in text:
        os.kill(os.getpid(), signal.SIGKILL)

root, kill_at = sys.argv[1:]
config = DataConfig(name="cifar10", root=root, download=False)
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
found = open_dataset(config, "train", progress=tell)
print("seconds", time.perf_counter() - began)
print("imported", sorted({"torch", "torchvision", "sklearn"} & set(sys.modules)))
print("sum", int(found.images.sum()), len(found), flush=True)
"""


def start(root: Path, kill_at: str = "") -> subprocess.Popen[str]:
    """A process that has imported what it needs and opens the data set on a line of standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), kill_at],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def run(root: Path, kill_at: str = "", code: int = 0) -> str:
    """One process from start to end; what it printed."""
    with start(root, kill_at) as process:
        printed, _ = process.communicate("\n", timeout=60)
    assert process.returncode == code, printed
    return printed


def open_train(root: Path, lines: list[str] | None = None) -> ImageDataset:
    config = DataConfig(name="cifar10", root=str(root), download=False)
    return open_dataset(config, "train", progress=([] if lines is None else lines).append)


def converted(root: Path) -> Path:
    (folder,) = (root / ".dydist-cache").glob("cifar10-*/")
    return folder


def partials(root: Path) -> list[Path]:
    return list((root / ".dydist-cache").glob(".partial-*"))


@pytest.mark.long
def test_a_second_start_on_data_of_the_published_size_takes_under_a_second(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, count=10_000)
    first, second = run(root), run(root)
    assert "converting" in first
    assert "converting" not in second
    values = dict(line.split(" ", 1) for line in second.splitlines())
    assert float(values["seconds"]) < 1
    assert values["imported"] == "[]"  # torch would take longer than the data
    assert values["sum"].endswith(" 50000")
    assert isinstance(open_train(root).images, np.memmap)


def test_four_processes_at_once_convert_once(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, count=500)
    processes = [start(root) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum("converting" in text for text in printed) == 1
    assert len({text.splitlines()[-1] for text in printed}) == 1
    assert not partials(root)


def test_who_waits_says_so_and_goes_on_when_the_lock_is_free(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path)
    (root / ".dydist-cache").mkdir()
    with start(root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with filelock.FileLock(root / ".dydist-cache" / "cifar10.lock"):
            process.stdin.write("\n")
            process.stdin.flush()
            assert "waiting for another process to prepare cifar10" in process.stdout.readline()
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "converting" in printed


@pytest.mark.parametrize("moment", ["converting", "wrote train-images", "wrote test-labels"])
def test_a_process_killed_half_way_leaves_nothing_half_made(tmp_path: Path, moment: str) -> None:
    root = write_cifar10(tmp_path)
    run(root, kill_at=moment, code=-signal.SIGKILL)
    assert not list((root / ".dydist-cache").glob("cifar10-*/"))
    assert len(partials(root)) == (moment != "converting")
    assert len(open_train(root)) == 100
    assert not partials(root)


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate("train-images.npy"),
        _truncate("test-labels.npy"),
        lambda folder: os.truncate(folder / "train-images.npy", 10_000_000),
        lambda folder: (folder / "test-images.npy").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("[1]"),
        lambda folder: (folder / "index.json").write_text('{"files": {'),
        lambda folder: np.save(folder / "train-labels.npy", np.zeros(100, np.float64)),
    ],
    ids=[
        "images cut",
        "labels cut",
        "images grown",
        "no images",
        "no index",
        "other index",
        "index cut",
        "labels of floats",
    ],
)
def test_a_damaged_conversion_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    root = write_cifar10(tmp_path)
    before = np.array(open_train(root).images)
    damage(converted(root))
    lines: list[str] = []
    assert np.array_equal(open_train(root, lines).images, before)
    assert "converting" in lines[0]
    lines.clear()
    open_train(root, lines)
    assert lines == []


def test_changed_sources_are_converted_anew_and_the_old_conversion_goes(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path)
    held = open_train(root)
    before, old = np.array(held.images), converted(root)
    content = batch(np.random.default_rng(9))
    write(root / FOLDER / "data_batch_1", content)
    after = open_train(root)
    assert np.array_equal(after.images[:20].reshape(-1, 3072), content[b"data"])
    assert converted(root) != old
    assert np.array_equal(held.images, before)  # who has the old one open keeps it


def test_left_overs_are_swept_but_not_those_in_use_elsewhere(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path)
    open_train(root)
    folder = converted(root)
    elsewhere = folder.parent / f".partial-{folder.name}-another-host-12345678"
    other_set = folder.parent / ".partial-cifar100-0123456789abcdef-another-host-12345678"
    for path in (elsewhere, other_set):
        path.mkdir()
    now = elsewhere.stat().st_mtime
    sweep(folder, now=now + 3600)
    assert elsewhere.exists()
    sweep(folder, now=now + 25 * 3600)
    assert not elsewhere.exists()
    assert other_set.exists()
    assert folder.exists()


def test_verification_finds_one_flipped_bit(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path)
    open_train(root)
    assert verify_cached(converted(root)) == []
    path = converted(root) / "test-images.npy"
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    assert verify_cached(converted(root)) == ["test-images.npy"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the write in the same way."""
    root = write_cifar10(tmp_path)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    process = subprocess.run(
        [sys.executable, "-c", limited + SCRIPT, str(root), ""], input="\n", capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "UserError" in process.stderr.splitlines()[-1]
    for words in ("images cannot be written: ", "MiB must fit there", "XDG_CACHE_HOME"):
        assert words in process.stderr
    assert not partials(root)
    assert len(open_train(root)) == 100


def test_the_named_cache_folder_is_used_and_the_data_left_alone(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path / "data")
    config = DataConfig(name="cifar10", root=str(root), download=False)
    assert len(open_dataset(config, "test", cache_dir=tmp_path / "cache")) == 20
    assert not (root / ".dydist-cache").exists()
    assert list((tmp_path / "cache").glob("cifar10-*/index.json"))


def test_the_converted_images_are_those_that_earlier_checkpoints_describe(tmp_path: Path) -> None:
    """A checkpoint holds a hash of the pixels, which a resumed run compares."""
    write_cifar10(tmp_path)
    found = open_dataset(DataConfig(name="cifar10", root=str(tmp_path), download=False), "train")
    plain = replace(found, images=np.array(found.images), labels=np.array(found.labels), content=None)
    assert DataDescription.of(found).content == DataDescription.of(plain).content


def test_a_place_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path)
    (root / ".dydist-cache" / "cifar10.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cifar10.lock cannot be locked.*remove the file, or set XDG_CACHE"):
        open_train(root)
