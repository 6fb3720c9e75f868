"""Finds the images of a folder: a folder for each class, in one folder or in one for each split.

    root/train/cat/1.jpg, root/val/cat/2.jpg      (or valid, validation, test)
    root/cat/1.jpg                                (split by a seed)

Only looks; `convert` reads the files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dydist.data.picture import SUFFIXES
from dydist.errors import UserError
from dydist.text.display import plain

TEST_FOLDERS = ("val", "valid", "validation", "test")
"""Names of the folder for evaluation, beside `train`. The first that exists is used."""
SPLIT_NAMES = frozenset({"train", "training", "test", "testing", *TEST_FOLDERS})
"""Names of folders, in lower case, that are splits rather than classes where there are several."""
SHOWN = 20
"""Names in a message; the others are counted."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image file: its path below the root, its class, and what its fingerprint is made of."""

    path: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The image files of a folder. `splits`: `train` and `test`, each in the order of a hash of the paths.

    The first images are therefore of all classes, and the order is the same on every machine. `left_out`: number of
    other files, by suffix. `divided`: whether the splits were made by a seed, since no folder for evaluation exists.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Source, ...]]
    left_out: Mapping[str, int]
    divided: bool

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when a file is added, removed, moved, replaced or touched."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split, sources in self.splits.items():
            digest.update(f"\0{split}\0".encode())
            for one in sources:
                digest.update(os.fsencode(one.path))
                digest.update(f"\0{one.label} {one.size} {one.mtime_ns}\0".encode())
        return digest.hexdigest()[:16]


def find_images(root: Path, *, test_fraction: float, seed: int) -> Found:
    """Find the images of `root`, which has one of the two layouts above.

    Without a folder for evaluation, `test_fraction` of each class (at least one image) becomes the test split. It is
    chosen by a hash of `seed` and of the images' paths. Hidden files and folders are skipped, links are followed, and
    folders within a class are searched.

    Raises UserError, with all names at once, if there are no classes, a class has no images, an evaluation has
    classes that training lacks, or something cannot be read.
    """
    try:
        return _find(root, test_fraction, seed)
    except OSError as error:
        raise UserError(
            f"data.root: {shown(error.filename or root)} cannot be read ({error.strerror}); it must be a folder of "
            "class folders with images, and this user must be allowed to read it"
        ) from None


def listed(names: Sequence[str], count: int | None = None) -> str:
    """At most SHOWN names, escaped, and the number of the others."""
    more = (len(names) if count is None else count) - SHOWN
    return ", ".join(map(shown, names[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def _find(root: Path, test_fraction: float, seed: int) -> Found:
    inside = _folders(root)
    others = [name for name in TEST_FOLDERS if name in inside]
    given = "train" in inside and not set(inside) - {"train", *TEST_FOLDERS}
    looks = [name for name in inside if name.casefold() in SPLIT_NAMES]
    if not given and len(looks) > 1:
        raise UserError(
            f"data.root: {listed(looks)} in {shown(root)} look like splits, and not like classes; name them train and "
            "val, and move other folders away"
        )
    top = "train" if given else ""
    classes = _folders(root / top)
    if len(classes) < 2:
        raise UserError(
            f"data.root: {shown(root / top)} holds {len(classes)} class folders ({listed(classes) or 'none'}); it must "
            "hold at least two, such as cat/ and dog/, with the images of each class inside, or train/ and val/ "
            "with such folders in both"
        )
    if bad := [name for name in classes if not _is_text(name)]:
        raise UserError(f"data.root: class folders whose names are not UTF-8: {listed(bad)}; rename them")
    left_out: Counter[str] = Counter()
    links: list[str] = []
    train = _sources(root, top, classes, classes, left_out, links)
    test: list[Source] = []
    if given and others:
        evaluated = _folders(root / others[0])
        if not evaluated:
            raise UserError(
                f"data.root: {shown(root / others[0])} holds no class folders; give it those of train/, or remove it"
            )
        if unknown := sorted(set(evaluated) - set(classes)):
            raise UserError(
                f"data.root: {shown(root / others[0])} has classes that train/ lacks: {listed(unknown)}; give both the "
                "same class folders"
            )
        test = _sources(root, others[0], evaluated, classes, left_out, links)
    if links:
        raise UserError(
            f"data.root: {len(links):,} links in {shown(root)} lead nowhere: {listed(links)}; remove them, or restore "
            "what they point at"
        )
    divided = not (given and others)
    if divided:
        train, test = _divided(train, len(classes), test_fraction, seed)
    ordered = {
        name: tuple(sorted(sources, key=lambda one: _rank(0, one.path)))
        for name, sources in (("train", train), ("test", test))
    }
    return Found(root=root, classes=tuple(classes), splits=ordered, left_out=left_out, divided=divided)


def _folders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted by code point. Raises OSError, also for links to nothing."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise FileNotFoundError(errno.ENOENT, "the link leads nowhere", entry.path)
            if entry.is_dir():
                found.append(entry.name)
    return sorted(found)


def _sources(
    root: Path,
    top: str,
    folders: Sequence[str],
    classes: Sequence[str],
    left_out: Counter[str],
    links: list[str],
) -> list[Source]:
    """The images of all class folders of one split. Raises UserError if a class has none."""
    found: list[Source] = []
    empty = []
    for name in folders:
        before = len(found)
        label = classes.index(name)
        for path, status in _walk(root, os.path.join(top, name), frozenset(), links):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in SUFFIXES:
                found.append(Source(path, label, status.st_size, status.st_mtime_ns))
            else:
                left_out[suffix or "no suffix"] += 1
        if len(found) == before:
            empty.append(os.path.join(top, name))
    if empty:
        raise UserError(
            f"data.root: {len(empty):,} class folders of {shown(root)} hold no {', '.join(SUFFIXES)} file: "
            f"{listed(empty)}; fill or remove them"
        )
    return found


def _walk(
    root: Path, folder: str, above: frozenset[tuple[int, int]], links: list[str]
) -> Iterator[tuple[str, os.stat_result]]:
    """Visible regular files below root/folder: path below root, and status. Raises OSError."""
    here = os.stat(root / folder)
    identity = (here.st_dev, here.st_ino)
    if identity in above:  # a link to a folder above
        return
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            path = os.path.join(folder, entry.name)
            try:
                status = entry.stat()
            except FileNotFoundError:
                links.append(path)
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(root, path, above | {identity}, links)
            elif stat.S_ISREG(status.st_mode):
                yield path, status


def _divided(
    sources: Sequence[Source], classes: int, fraction: float, seed: int
) -> tuple[list[Source], list[Source]]:
    """Training and test images. Raises UserError if a class has only one image."""
    by_class: list[list[Source]] = [[] for _ in range(classes)]
    for one in sources:
        by_class[one.label].append(one)
    train: list[Source] = []
    test: list[Source] = []
    single = [os.path.dirname(images[0].path) for images in by_class if len(images) == 1]
    if single:
        raise UserError(
            f"data.root: classes with a single image cannot be split: {listed(single)}; add images, or give train/ and "
            "val/ folders"
        )
    for images in by_class:
        images.sort(key=lambda one: _rank(seed + 1, one.path))
        count = min(max(1, round(fraction * len(images))), len(images) - 1)
        test += images[:count]
        train += images[count:]
    return train, test


def _rank(seed: int, path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=8, key=str(seed).encode()).digest()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str | Path) -> str:
    """A name for a message: bytes that are not UTF-8, and control characters, escaped."""
    return plain(os.fsencode(str(name)).decode(errors="backslashreplace"))
