"""CIFAR-10 and CIFAR-100 in the published python layout (Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html).

Each file is a pickled dict: `data` uint8 (n, 3072), one image per row, channels first (1,024 red values row by row,
then green, then blue), and a list of n labels. The published files have 10,000 images each (CIFAR-100: 50,000 and
10,000); any other number is accepted.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dydist.data.unpickle import read_pickled_dict
from dydist.errors import UserError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of a published data set, and their keys."""

    name: str
    folder: str
    archive: str
    """File name of the published archive; it unpacks to `folder`."""
    url: str
    """The data set's web page (downloads use torchvision's address)."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label_key: str
    names_key: str
    num_classes: int

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.meta)


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    label_key="labels",
    names_key="label_names",
    num_classes=10,
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    train=("train",),
    test=("test",),
    meta="meta",
    label_key="fine_labels",
    names_key="fine_label_names",
    num_classes=100,
)
LAYOUTS = {layout.name: layout for layout in (CIFAR10, CIFAR100)}


@dataclass(frozen=True, kw_only=True)
class Split:
    """images uint8 [N,3,32,32], labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


def download_remedy(layout: Layout, root: Path) -> str:
    """The remedy in messages about missing or damaged files."""
    return (
        f"get {layout.archive} from {layout.url} (or with `dydist data prepare --name {layout.name}` on a "
        f"machine that has network), unpack it in {root} so that {root / layout.folder} exists, "
        "or set data.root to the folder that holds it; data.name=digits needs no files at all"
    )


def data_root(layout: Layout, given: Path) -> Path:
    """The parent of the batches' folder: `given`, or its parent if `given` is the batches' folder itself."""
    inside = all((given / name).is_file() for name in (layout.train[0], layout.meta))
    whole = given.resolve() if inside else given
    return whole.parent if inside and whole.name == layout.folder else given


def missing_files(layout: Layout, root: Path) -> list[Path]:
    """Files of the layout that are not under `root`.

    Raises UserError if something other than a file has a file's name, `root` is not a folder, or a folder is not
    accessible.
    """
    folder = root / layout.folder
    try:
        root_occupied = (root.exists() or root.is_symlink()) and not root.is_dir()
    except OSError as error:
        raise unreadable(layout, root, error) from None
    if root_occupied:
        raise UserError(
            f"data.root: {root} is not a folder; expected one that holds {layout.folder}. Move it away, then "
            + download_remedy(layout, root)
        )
    absent = []
    for path in (folder / name for name in layout.files):
        try:
            if path.is_file():
                continue
            occupied = path.exists() or path.is_symlink()
        except OSError as error:
            raise unreadable(layout, path, error) from None
        if occupied:
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(
                f"{path} is {kind}; expected a file of {layout.name}. Move it away, then "
                + download_remedy(layout, root)
            )
        absent.append(path)
    return absent


def read_split(layout: Layout, root: Path, files: Sequence[str]) -> Split:
    """All images of `files`, in file order. Raises UserError if a file does not fit the layout."""
    parts = [_read_batch(layout, root / layout.folder / name, root) for name in files]
    return Split(
        images=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
    )


def read_classes(layout: Layout, root: Path) -> tuple[str, ...]:
    """Class names from the meta file, in label order."""
    path = root / layout.folder / layout.meta
    names = _read(layout, path, root).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise _damaged(layout, path, root, f"{layout.names_key} is missing or not a list of names")
    if len(names) != layout.num_classes:
        raise _damaged(layout, path, root, f"it names {len(names)} classes, expected {layout.num_classes}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)


def _read(layout: Layout, path: Path, root: Path) -> dict[str, Any]:
    try:
        return read_pickled_dict(path)
    except pickle.UnpicklingError as error:
        raise _damaged(layout, path, root, str(error)) from None
    except OSError as error:
        raise unreadable(layout, path, error) from None


def _read_batch(layout: Layout, path: Path, root: Path) -> tuple[np.ndarray, np.ndarray]:
    content = _read(layout, path, root)
    data = content.get("data")
    if not isinstance(data, np.ndarray):
        raise _damaged(layout, path, root, f"it has no array `data`, only {sorted(content)[:10]}")
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS or not len(data):
        shape = "×".join(map(str, data.shape))
        raise _damaged(
            layout, path, root, f"`data` is {data.dtype} {shape}, expected uint8 n×{PIXELS}, n ≥ 1"
        )
    labels = _labels(content.get(layout.label_key))
    if labels is None:
        raise _damaged(layout, path, root, f"it has no list `{layout.label_key}` of whole numbers")
    if len(labels) != len(data):
        raise _damaged(layout, path, root, f"it has {len(labels)} labels for {len(data)} images")
    if labels.min() < 0 or labels.max() >= layout.num_classes:
        wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise _damaged(layout, path, root, f"label {wrong} is outside 0..{layout.num_classes - 1}")
    return data.reshape(-1, 3, 32, 32), labels


def _labels(value: Any) -> np.ndarray | None:
    """int64 [n], or None if the value is not a list of integers."""
    if isinstance(value, list) and all(type(label) is int and abs(label) < 2**31 for label in value):
        return np.array(value, dtype=np.int64)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu":
        return value.astype(np.int64)
    return None


def _damaged(layout: Layout, path: Path, root: Path, what: str) -> UserError:
    return UserError(
        f"{path} is not a file of {layout.name}: {what}. Move it away, then {download_remedy(layout, root)}"
    )


def unreadable(layout: Layout, path: Path, error: OSError) -> UserError:
    """The error for a file or folder that cannot be opened."""
    return UserError(
        f"{path} cannot be read: {error.strerror or error}. It must be a file of {layout.name} that this user may "
        f"read; set its permissions (chmod u+r, and u+rx on its folders), or set data.root to another copy"
    )
