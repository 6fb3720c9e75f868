"""`data.name=npz` and `data.name=factory`: arrays of the user's own.

data.npz: train_images, train_labels, test_images, test_labels, class_names      (MedMNIST has val_images, too)
          or x_train, y_train, x_test, y_test                                     (Keras)
          or images, labels                                                       (split by a seed)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dydist.config import DataConfig
from dydist.data.cache import CachedArrays, fingerprint, split_name, write_cached
from dydist.data.cache_places import conversion_places, open_or_convert
from dydist.data.cifar import Split
from dydist.data.dataset import Arrays, mean_and_std_of_sums
from dydist.data.torchvision_shim import declare_operators
from dydist.errors import UserError
from dydist.randomness import generator
from dydist.text.display import plain
from dydist.user_function import load_function

KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("train_x", "train_y")),
    "test": (
        *(("val_images", "val_labels"), ("x_val", "y_val"), ("val_x", "val_y")),
        *(("test_images", "test_labels"), ("x_test", "y_test"), ("test_x", "test_y")),
    ),
    "all": (("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "targets")),
}
"""Names of images and labels in a file; the first that are there are used."""
CLASS_KEYS = ("class_names", "classes", "label_names")
BLOCK_PIXELS = 1 << 22
"""Pixels that are counted at a time; counting takes 8 bytes for each."""


def npz(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> Arrays:
    """Open a split of the file `config.root`. Raises UserError."""
    return open_npz(config, cache_dir=cache_dir, progress=progress).split(split)


def open_npz(config: DataConfig, *, cache_dir: Path | None, progress: Callable[[str], None]) -> CachedArrays:
    """Open both splits of an .npz file, unpacked once a node to memory-mapped arrays. Raises UserError."""
    path = Path(os.path.expanduser(config.root))
    try:
        source = fingerprint([path])
    except OSError as error:
        raise UserError(
            f"data.root: {path} cannot be read ({error.strerror}); with data.name=npz it must be an .npz file"
        ) from None

    def convert(target: Path) -> None:
        progress(f"converting {path} to {target} (once for this machine)")
        splits, classes = read_npz(path, config)
        mean, std = mean_and_std(splits["train"].images)
        write_cached(target, classes, splits, log=progress, mean=mean, std=std)

    places = conversion_places(path, path.parent, cache_dir)
    return open_or_convert(
        [place / path.name for place in places],  # a folder a file: others' conversions stay
        f"npz-{split_name(config)}-{source}",
        sources=[path],
        what=str(path),
        convert=convert,
        progress=progress,
    )


def read_npz(path: Path, config: DataConfig) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Both splits of an .npz file, and the classes. Pickled arrays are refused. Raises UserError."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {key: _Entry(file, key) for key in file.files}
            parts = {part: next((k for k in KEYS[part] if set(k) <= set(found)), None) for part in KEYS}
            if parts["train"] and parts["test"]:
                splits = {part: _split(path, found, parts[part]) for part in ("train", "test")}
            elif keys := parts["train"] or parts["all"]:
                splits = _divided(path, _split(path, found, keys), config)
            else:
                known = "; ".join(", ".join(pair) for pairs in KEYS.values() for pair in pairs)
                raise UserError(
                    f"data.root: {path} holds {', '.join(map(plain, list(found)[:10])) or 'nothing'}; it must hold "
                    f"images and labels under one of these pairs of names: {known}"
                )
            names = next((found[key].array() for key in CLASS_KEYS if key in found), None)
    except UserError:
        raise
    except Exception as error:  # of zipfile, zlib, numpy and tokenize, by what is damaged
        raise UserError(
            f"data.root: {path} is not a whole .npz file of plain arrays ({' '.join(str(error).split())[:200]}); "
            "write it with numpy.savez, with dtype uint8 for images and whole numbers for labels"
        ) from None
    classes = _classes(splits, None if names is None else _texts(np.ravel(names)), f"data.root: {path}")
    return splits, classes


class _Entry:
    """An array of a file, read when it is asked for."""

    def __init__(self, file: Mapping[str, Any], key: str) -> None:
        self._file, self._key = file, key

    def array(self) -> np.ndarray:
        found: np.ndarray = self._file[self._key]
        return found


def _split(path: Path, found: Mapping[str, _Entry], keys: tuple[str, str] | None) -> Split:
    assert keys is not None
    images, labels = (found[key].array() for key in keys)
    return checked(images, labels, f"data.root: {path}: {keys[0]}, {keys[1]}")


def checked(images: Any, labels: Any, where: str) -> Split:
    """Images as uint8 [N, 3, H, W] and labels as int64 [N], of arrays in a usual layout.

    Images uint8: [N, H, W], [N, H, W, C] or [N, C, H, W], where H = W and C is 1 or 3. Labels: whole numbers [N] or
    [N, 1]. A memory map [N, 3, H, W] stays one. Raises UserError.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not _square(images):
        told = (
            f"{images.dtype} {list(images.shape)}"
            if isinstance(images, np.ndarray)
            else type(images).__name__
        )
        raise UserError(
            f"{where}: the images are {told}; they must be a numpy array uint8 [N, H, W], [N, H, W, C] or "
            "[N, C, H, W] of square images with one or three channels"
        )
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise UserError(
            f"{where}: the labels are {labels.dtype} {list(labels.shape)} for {len(images)} images; they "
            "must be one whole number of at least 0 for each image"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3) and images.shape[1] == images.shape[2]:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[1] == 1:
        images = images.repeat(3, axis=1)
    return Split(images=images, labels=labels.astype(np.int64))


def _square(images: np.ndarray) -> bool:
    shape: tuple[int, ...] = images.shape
    if images.ndim == 3:
        return 0 < shape[1] == shape[2]
    if images.ndim != 4:
        return False
    last = 0 < shape[1] == shape[2] and shape[3] in (1, 3)
    return last or (0 < shape[2] == shape[3] and shape[1] in (1, 3))


def _divided(path: Path, every: Split, config: DataConfig) -> dict[str, Split]:
    """Both splits of one array, `config.test_fraction` of each class for the test."""
    test = []
    for label in np.unique(every.labels):
        places = generator(config.split_seed, "npz split", int(label)).permutation(
            np.flatnonzero(every.labels == label)
        )
        if len(places) == 1:
            raise UserError(
                f"data.root: {path}: class {label} has a single image and cannot be split; add images, or give "
                "train_images and test_images"
            )
        test.append(places[: min(max(1, round(config.test_fraction * len(places))), len(places) - 1)])
    chosen = np.zeros(len(every.labels), dtype=bool)
    chosen[np.concatenate(test)] = True
    return {
        "train": Split(images=every.images[~chosen], labels=every.labels[~chosen]),
        "test": Split(images=every.images[chosen], labels=every.labels[chosen]),
    }


def _classes(splits: Mapping[str, Split], names: list[str] | None, where: str) -> tuple[str, ...]:
    """Names of the classes; numbers without names. Raises UserError if labels or sizes do not fit."""
    count = len(names) if names is not None else int(splits["train"].labels.max()) + 1
    if names is None and count > (images := len(splits["train"].labels)):
        raise UserError(
            f"{where}: the labels go up to {count - 1}, but there are only {images} training images; number the "
            "classes from 0, or give their names"
        )
    for split, arrays in splits.items():
        if (highest := int(arrays.labels.max())) >= count or count < 2:
            raise UserError(
                f"{where}: label {highest} in {split}, and there are {count} classes; labels must be 0 to "
                "the number of classes - 1, of at least two classes"
            )
    if splits["train"].images.shape[1:] != splits["test"].images.shape[1:]:
        sizes = [list(splits[split].images.shape[1:]) for split in ("train", "test")]
        raise UserError(
            f"{where}: training images are {sizes[0]} and test images {sizes[1]}; they must have one size"
        )
    return tuple(names) if names is not None else tuple(map(str, range(count)))


def _texts(names: Iterable[Any]) -> list[str]:
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names]


def mean_and_std(
    images: np.ndarray,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Per channel of uint8 [N, 3, H, W], as `mean_and_std_of_sums`."""
    counts = np.zeros((3, 256), dtype=np.int64)
    rows = max(1, BLOCK_PIXELS // (images.shape[2] * images.shape[3]))
    for start in range(0, len(images), rows):
        for channel in range(3):
            counts[channel] += np.bincount(images[start : start + rows, channel].reshape(-1), minlength=256)
    levels = np.arange(256)
    return mean_and_std_of_sums(counts @ levels, counts @ levels**2, int(counts[0].sum()))


def factory(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> Arrays:
    """Open a split by the user's own function, `config.factory`, called with "train" and "test". Raises UserError."""
    declare_operators()  # many data sets import torchvision
    assert config.factory is not None
    function = load_function("data.factory", config.factory)
    splits: dict[str, Split] = {}
    names: list[str] | None = None
    for part in ("train", "test"):
        try:
            images, labels, *rest = function(part, **config.options)
            splits[part] = checked(images, labels, f"data.factory: {config.factory}({part!r})")
            names = _texts(rest[0]) if rest and rest[0] is not None else None
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"data.factory: {config.factory} failed for {part!r} ({type(error).__name__}: {error}); it is called "
                "with 'train' or 'test' and data.options, and returns images, labels and, if they have names, classes"
            ) from error
    classes = _classes(splits, names, f"data.factory: {config.factory}")
    mean, std = (None, None) if config.normalisation == "imagenet" else mean_and_std(splits["train"].images)
    return Arrays(splits[split].images, splits[split].labels, classes, mean=mean, std=std)
