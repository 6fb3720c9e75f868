"""data.name=folder: what is found, what is refused, and that a conversion is whole or is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dydist.config import DataConfig
from dydist.data import ImageDataset, cache, cache_places, convert, open_dataset, prepare_folder
from dydist.data.folder import find_images
from dydist.data.picture import read_picture
from dydist.errors import UserError

SIDE = 16


def picture(path: Path, number: int, size: tuple[int, int] = (24, 20)) -> Path:
    """Write an image of noise; any two numbers give different ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pictures(root: Path, *classes: str, count: int = 5) -> Path:
    for label, name in enumerate(classes):
        for number in range(count):
            picture(root / name / f"{number}.png", 100 * label + number)
    return root


def opened(root: Path, split: Any = "train", lines: list[str] | None = None, **options: Any) -> ImageDataset:
    config = DataConfig(name="folder", root=str(root), side=SIDE, **options)
    return open_dataset(config, split, progress=([] if lines is None else lines).append)


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, **options)
    return str(caught.value)


def conversions(root: Path) -> list[Path]:
    return sorted((root / ".dydist-cache").glob("folder*-*/"))


def test_images_are_those_of_the_files_in_both_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    kinds = {".png": {}, ".JPG": {"quality": 95}, ".jpeg": {}, ".webp": {"lossless": True}}
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            for number, (suffix, options) in enumerate(kinds.items()):
                path = picture(root / split / name / f"{number}.png", 7 * number + label + 50 * len(split))
                Image.open(path).save(path.with_suffix(suffix), **options)  # type: ignore[arg-type]
    for split, top in (("train", "train"), ("test", "val")):
        dataset = opened(root, split)
        assert dataset.classes == ("ant", "bee")
        found = find_images(root, test_fraction=0.2, seed=0).splits[split]
        assert {one.path.split("/")[0] for one in found} == {top}
        assert len(found) == len(dataset) == sum(1 for _ in (root / top).rglob("*.*"))
        for image, label, source in zip(dataset.images, dataset.labels, found, strict=True):
            np.testing.assert_array_equal(image, read_picture(str(root / source.path), SIDE))
            assert dataset.classes[label] == source.path.split("/")[1]
    train = opened(root)
    assert isinstance(train.images.base, np.memmap)
    assert train.mean == pytest.approx((train.images / 255).mean((0, 2, 3)), abs=1e-6)
    assert train.std == pytest.approx((train.images / 255).std((0, 2, 3)), abs=1e-6)
    assert opened(root, "test").mean == train.mean
    assert opened(root, normalisation="imagenet").mean == (0.485, 0.456, 0.406)
    assert [opened(root, flip=flip).flip for flip in (None, False)] == [True, False]


def test_a_folder_without_splits_is_split_by_a_seed_within_each_class(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee", "cat", count=10)
    for seed in (0, 1):
        train, test = (opened(root, split, split_seed=seed, test_fraction=0.3) for split in ("train", "test"))
        assert np.bincount(train.labels).tolist() == [7, 7, 7]
        assert np.bincount(test.labels).tolist() == [3, 3, 3]
        every = {image.tobytes() for image in np.concatenate([train.images, test.images])}
        assert len(every) == 30
    first, other = (
        {one.path for one in find_images(root, test_fraction=0.3, seed=seed).splits["test"]}
        for seed in (0, 1)
    )
    assert first != other
    picture(root / "ant" / "new.png", 1000)
    again = {one.path for one in find_images(root, test_fraction=0.3, seed=0).splits["test"]}
    assert len(first & again) >= 8, "one more file moved others to the other split"
    assert set(opened(root, limit=6).labels) == {0, 1, 2}, "the first images are of all classes"


def test_what_is_hidden_linked_nested_or_no_image(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "ant", "bee", count=3)
    picture(root / "ant" / "deep" / "er" / "1.png", 31)
    picture(root / ".cache" / "1.png", 32)
    picture(root / "ant" / "._0.png", 33)
    picture(root / "__MACOSX" / "1.png", 34)
    (root / "ant" / "notes.txt").write_text("hello")
    (root / "README").write_text("hello")
    (root / "ant" / "loop").symlink_to(root / "ant")
    picture(tmp_path / "elsewhere.png", 35)
    (root / "bee" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    picture(tmp_path / "cats" / "1.png", 36)
    picture(tmp_path / "cats" / "2.png", 37)
    (root / "cat").symlink_to(tmp_path / "cats")
    picture(root / "bee" / os.fsdecode(b"caf\xe9.png"), 38)
    lines: list[str] = []
    dataset = opened(root, lines=lines)
    assert dataset.classes == ("ant", "bee", "cat")
    found = find_images(root, test_fraction=0.2, seed=0)
    assert sum(map(len, found.splits.values())) == 3 + 1 + 3 + 2 + 2
    assert "files that are no images are left out: 1 .txt" in lines


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "holds 0 class folders (none)"),
        (lambda root: picture(root / "1.png", 1), "holds 0 class folders (none)"),
        (lambda root: pictures(root, "ant"), "holds 1 class folders (ant)"),
        (lambda root: [(pictures(root, "ant", "bee") / name).mkdir() for name in "xy"], "2 class folders of"),
        (lambda root: pictures(root, "ant", "bee", count=1), "single image cannot be split: ant, bee"),
        (
            lambda root: (pictures(root / "train", "ant", "bee"), pictures(root / "val", "ant", "cow")),
            "has classes that train/ lacks: cow",
        ),
        (
            lambda root: [
                (pictures(root, "ant", "bee") / "ant" / f"{n}.jpg").symlink_to("gone") for n in "12"
            ],
            "2 links in",
        ),
        (lambda root: pictures(root, "ant", os.fsdecode(b"\xff")), r"not UTF-8: \xff"),
        (
            lambda root: (pictures(root / "train", "ant", "bee"), picture(root / "val" / "1.png", 1)),
            "/val holds no class folders",
        ),
        (
            lambda root: (pictures(root / "Training", "a", "b"), pictures(root / "Testing", "a", "b")),
            "Testing, Training in",
        ),
        (
            lambda root: [pictures(root / name, "a", "b") for name in ("train", "val", "to predict")],
            "train, val in",
        ),
        (lambda root: (pictures(root, "ant", "bee") / "cow").symlink_to("gone"), "the link leads nowhere"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path)
    message = refused(tmp_path)
    assert message.startswith("data.root: ")
    assert said in message
    assert not list(tmp_path.glob(".dydist-cache/folder*"))


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/gone cannot be read (No such file or directory)" in refused(tmp_path / "gone")


def test_bad_files_are_named_all_at_once_and_the_next_start_converts_the_rest(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee", count=30)
    for number in range(24):
        (root / "ant" / f"{number}.png").write_bytes(b"no image")
    whole = picture(root / "bee" / "0.png", 5).read_bytes()
    (root / "bee" / "0.png").write_bytes(whole[: len(whole) // 2])
    message = refused(root)
    assert "25 files in" in message
    assert message.count("\n") == 21
    assert "ant/0.png: not a PNG, JPEG or WebP image" in message
    (listing,) = (root / ".dydist-cache").glob("*bad-files.txt")
    assert f"and 5 more (all of them: {listing})" in message
    assert "bee/0.png: cannot be read: " in listing.read_text()
    assert conversions(root) == []
    for number in range(24):
        (root / "ant" / f"{number}.png").unlink()
    picture(root / "bee" / "0.png", 5)
    assert len(opened(root)) == 5 + 24
    assert len(conversions(root)) == 1
    assert not list((root / ".dydist-cache").glob(".partial-*"))


def test_a_changed_folder_is_converted_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee")
    lines: list[str] = []
    before = opened(root, lines=lines)
    assert [line for line in lines if "converting" in line]
    lines.clear()
    assert opened(root, lines=lines).content == before.content
    assert lines == []
    picture(root / "ant" / "new.png", 9)
    after = opened(root, lines=lines)
    assert lines
    assert after.content != before.content
    assert len(conversions(root)) == 1, "the old conversion is removed"
    assert np.isfinite(before.images.sum()), "a run that goes on with it still can"


KILLED = """
import os, signal, sys
from dydist.config import DataConfig
from dydist.data import convert, open_dataset
convert.BLOCK_BYTES = 1
blocks = int(sys.argv[2])
dump = convert.json.dumps
def dying(line):
    global blocks
    blocks -= 1
    if blocks < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return dump(line)
convert.json.dumps = dying
print(open_dataset(DataConfig(name="folder", root=sys.argv[1], side=16), "train", progress=print).content)
"""


def test_a_killed_conversion_goes_on_and_believes_nothing_that_is_not_whole(tmp_path: Path) -> None:
    whole = opened(pictures(tmp_path / "whole", "ant", "bee", count=20))
    root = pictures(tmp_path / "killed", "ant", "bee", count=20)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), "12"], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (partial,) = (root / ".dydist-cache").glob(".partial-*")
    journal = (partial / "journal.jsonl").read_text().splitlines()
    assert len(journal) == 12
    with (partial / "train-images.npy").open("r+b") as file:  # bytes that did not reach the disk
        file.seek(128)
        first = file.read(3 * SIDE**2)
        file.seek(128)
        file.write(bytes(len(first)))
    with (partial / "journal.jsonl").open("a") as file:
        file.write('["train", 3')  # a line that was cut
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dydist.data.convert.BLOCK_BYTES", 1)
        dataset = opened(root, lines=lines)
    kept = 12 - ('["train", 0,' in "\n".join(journal))
    assert f"{kept} are there from an attempt that was cut" in lines[0]
    np.testing.assert_array_equal(dataset.images, whole.images)
    assert (dataset.content, dataset.mean, dataset.std) == (whole.content, whole.mean, whole.std)


def test_a_folder_that_cannot_be_written_is_converted_into_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "data", "ant", "bee")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / ".dydist-cache").write_text("in the way")  # root may write into any folder
    assert len(opened(root)) == 8
    assert len(list((tmp_path / "cache").rglob("folder16-*/index.json"))) == 1


def test_a_full_disk_is_an_error_that_says_what_is_needed(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from dydist.config import DataConfig; from dydist.data import open_dataset\n"
        "from dydist.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: open_dataset(DataConfig(name='folder', root=sys.argv[1], side=64), 'train')\n"
        "except UserError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    ).stdout
    assert "the converted images cannot be written: File too large" in said
    assert conversions(root) == []


def test_a_kill_while_the_arrays_are_hashed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path, "ant", "bee")

    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_sha256", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(root)
    lines: list[str] = []
    assert len(opened(root, lines=lines)) == 8
    assert "10 are there from an attempt that was cut" in lines[0]
    assert not list(root.rglob("journal.jsonl"))


def test_runs_over_split_seeds_do_not_convert_in_turns(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee")
    opened(root, split_seed=0)
    opened(root, split_seed=1)
    lines: list[str] = []
    opened(root, split_seed=0, lines=lines)
    assert lines == []
    for top in ("train", "val"):
        pictures(tmp_path / "divided" / top, "ant", "bee")
    opened(tmp_path / "divided", split_seed=0)
    opened(tmp_path / "divided", split_seed=1, lines=lines)
    assert lines == [], "the seed does not matter there"


def test_the_list_of_bad_files_goes_when_they_are_replaced(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee")
    (root / "ant" / "0.png").write_bytes(b"no image")
    refused(root)
    assert list(root.rglob("*bad-files.txt"))
    picture(root / "ant" / "0.png", 5)
    opened(root)
    assert not list(root.rglob("*bad-files.txt"))


def test_where_another_host_was_faster_its_conversion_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path, "ant", "bee")
    finish, kept = convert.finish_cached, []

    def second(partial: Path, folder: Path, *arguments: Any, **options: Any) -> None:
        shutil.copytree(partial, partial.with_name("first"))
        finish(partial.with_name("first"), folder, *arguments, **options)
        kept.append((folder / "index.json").stat().st_ino)
        finish(partial, folder, *arguments, **options)

    monkeypatch.setattr(convert, "finish_cached", second)
    assert len(opened(root)) == 8
    (folder,) = conversions(root)
    assert [(folder / "index.json").stat().st_ino] == kept
    assert not list((root / ".dydist-cache").glob(".partial-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_what_another_user_planted_while_this_one_waited_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "data", "ant", "bee")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened(root)
    (conversion,) = conversions(root)
    conversion.rename(tmp_path / "planted")
    locked = cache_places.locked

    @contextlib.contextmanager
    def waited(path: Path, *arguments: Any) -> Iterator[None]:
        with locked(path, *arguments):
            if not conversion.exists():
                (tmp_path / "planted").rename(conversion)
                os.chown(conversion, 12345, 12345)
            yield

    monkeypatch.setattr(cache_places, "locked", waited)
    assert (tmp_path / "cache").resolve() in prepare_folder.open_folder(
        DataConfig(name="folder", root=str(root), side=SIDE), cache_dir=None, progress=print
    ).folder.resolve().parents


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_another_users_unfinished_conversion_is_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path, "ant", "bee")
    opened(root)
    (conversion,) = conversions(root)
    shutil.rmtree(conversion)
    partial = conversion.with_name(f".partial-{conversion.name}-{socket.gethostname()}-{os.geteuid()}")
    partial.mkdir()
    os.chown(partial, 12345, 12345)
    assert "belongs to another user" in refused(root)
    assert conversions(root) == []
