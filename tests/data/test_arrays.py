"""data.name=npz and data.name=factory: layouts that are taken, and what is refused."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from dydist.config import DataConfig
from dydist.data import ImageDataset, arrays, open_dataset
from dydist.data.arrays import mean_and_std
from dydist.errors import UserError
from helpers.support import REPOSITORY

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 4


def opened(path: Path, split: Any = "train", **options: Any) -> ImageDataset:
    return open_dataset(DataConfig(name="npz", root=str(path), **options), split)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("train_images", "train_labels"), ("x_train", "y_train"), ("train_x", "train_y")],
)
@pytest.mark.parametrize("layout", ["first", "last", "grey"])
def test_usual_names_and_layouts_give_the_same_images(
    images: str, labels: str, layout: str, tmp_path: Path
) -> None:
    arrays = {"first": COLOUR, "last": COLOUR.transpose(0, 2, 3, 1), "grey": COLOUR[:, 0]}
    expected = COLOUR if layout != "grey" else COLOUR[:, :1].repeat(3, axis=1)
    values = {images: arrays[layout], labels: LABELS[:, None].astype(np.uint8)}
    values |= {name.replace("train", "test"): value[:12] for name, value in values.items()}
    np.savez_compressed(tmp_path / "data.npz", **values)
    train, test = opened(tmp_path / "data.npz"), opened(tmp_path / "data.npz", "test")
    np.testing.assert_array_equal(train.images, expected)
    np.testing.assert_array_equal(test.images, expected[:12])
    np.testing.assert_array_equal(train.labels, LABELS)
    assert train.classes == ("0", "1", "2", "3")
    assert isinstance(train.images.base, np.memmap)
    assert train.mean == pytest.approx((expected / 255).mean((0, 2, 3)), abs=1e-6)
    assert train.std == pytest.approx((expected / 255).std((0, 2, 3)), abs=1e-6)


def test_one_array_is_split_within_each_class_and_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=COLOUR, labels=LABELS, class_names=["ant", "bee", "cat", "dog"])
    train, test = (opened(path, split, test_fraction=0.3) for split in ("train", "test"))
    assert train.classes == ("ant", "bee", "cat", "dog")
    assert np.bincount(train.labels).tolist() == [7, 7, 7, 7]
    both = np.concatenate([train.images, test.images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in COLOUR}
    assert opened(path, split_seed=1).content != train.content


def test_another_file_in_the_same_folder_leaves_the_first_ones_conversion(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=COLOUR, labels=LABELS)
        opened(tmp_path / f"{name}.npz")
    assert len(list((tmp_path / ".dydist-cache").rglob("index.json"))) == 2
    np.savez(tmp_path / "a.npz", images=COLOUR[::-1], labels=LABELS[::-1])
    assert len(opened(tmp_path / "a.npz")) == 32
    assert len(list((tmp_path / ".dydist-cache").rglob("index.json"))) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pictures": COLOUR}, "holds pictures; it must hold images and labels under"),
        ({"images": COLOUR / 255, "labels": LABELS}, "the images are float64 [40, 3, 8, 8]"),
        ({"images": COLOUR[:, :, :4], "labels": LABELS}, "the images are uint8 [40, 3, 4, 8]"),
        ({"images": COLOUR, "labels": LABELS[:9]}, "the labels are int64 [9] for 40 images"),
        ({"images": COLOUR, "labels": LABELS - 1}, "at least 0 for each image"),
        ({"images": COLOUR, "labels": LABELS * 0.5}, "the labels are float64"),
        ({"images": COLOUR, "labels": LABELS, "classes": ["a", "b"]}, "and there are 2 classes"),
        ({"images": COLOUR, "labels": LABELS * 0}, "at least two classes"),
        ({"images": COLOUR, "labels": np.arange(40)}, "class 0 has a single image"),
        (
            {"images": np.array([print], dtype=object), "labels": LABELS},
            "not a whole .npz file of plain arrays",
        ),
        (
            {"x_train": COLOUR, "y_train": LABELS, "x_test": COLOUR[:, :, :4, :4], "y_test": LABELS},
            "training images are [3, 8, 8] and test images [3, 4, 4]",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(values: Any, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **values)
    assert said in refused(tmp_path / "data.npz")
    assert not list(tmp_path.rglob("index.json"))


def test_files_that_are_damaged_or_gone(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=COLOUR, labels=LABELS)
    whole = (tmp_path / "data.npz").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:200] + bytes(300) + whole[500:]):
        (tmp_path / "data.npz").write_bytes(content)
        assert "not a whole .npz file of plain arrays" in refused(tmp_path / "data.npz")
    np.save(tmp_path / "array.npy", COLOUR)
    assert "not a whole .npz file of plain arrays" in refused(
        (tmp_path / "array.npy").rename(tmp_path / "a.npz")
    )
    np.savez_compressed(tmp_path / "data.npz", images=COLOUR, labels=LABELS)
    whole = (tmp_path / "data.npz").read_bytes()
    for place in (whole.index(b"PK\1\2") + 10, 300):  # the method of compression, and compressed bytes
        (tmp_path / "data.npz").write_bytes(whole[:place] + b"\xff\xff" + whole[place + 2 :])
        assert "not a whole .npz file of plain arrays" in refused(tmp_path / "data.npz")
    assert "cannot be read (No such file" in refused(tmp_path / "gone.npz")


@pytest.mark.parametrize(
    "names", [np.array([b"ant", b"bee", b"cat", b"dog"]), np.array([["ant", "bee", "cat", "dog"]])]
)
def test_names_in_other_forms(names: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=COLOUR, labels=LABELS, class_names=names)
    assert opened(tmp_path / "data.npz").classes == ("ant", "bee", "cat", "dog")
    np.savez(tmp_path / "data.npz", images=COLOUR, labels=LABELS, class_names=np.array("ant"))
    assert "there are 1 classes" in refused(tmp_path / "data.npz")


def test_the_mean_is_that_of_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mean_and_std(COLOUR)
    rows: list[int] = []
    count = np.bincount
    monkeypatch.setattr(arrays, "BLOCK_PIXELS", 200)
    monkeypatch.setattr(
        np, "bincount", lambda values, **more: rows.append(len(values)) or count(values, **more)
    )
    assert mean_and_std(COLOUR) == expected
    assert max(rows) <= 200


def test_the_mean_of_one_colour_has_a_deviation_that_divides() -> None:
    assert mean_and_std(np.full((2, 3, 4, 4), 255, dtype=np.uint8)) == ((1.0,) * 3, (0.003922,) * 3)


def made(split: str, *, count: int = 40, fault: str = "") -> tuple[Any, ...]:
    """A factory, as a user would write it."""
    if fault == "raises":
        raise RuntimeError("no such camera")
    if fault == "nothing":
        return ()
    if fault == "ragged":
        return COLOUR, [[1], [1, 2]]
    if fault == "huge":
        return COLOUR, LABELS * 1000
    if fault == "floats":
        return COLOUR / 255, LABELS
    if fault == "unnamed":
        return COLOUR, LABELS, None
    return COLOUR[:count], LABELS[:count], ["ant", "bee", "cat", "dog"]


def config(**options: Any) -> DataConfig:
    return DataConfig(name="factory", factory=f"{__name__}:made", options=options)


def test_a_factory_gives_images_labels_and_classes() -> None:
    train = open_dataset(config(count=32), "train")
    np.testing.assert_array_equal(train.images, COLOUR[:32])
    assert train.classes == ("ant", "bee", "cat", "dog")
    assert train.mean == mean_and_std(COLOUR[:32])[0]
    assert open_dataset(config(fault="unnamed"), "train").classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fault": "raises"}, "failed for 'train' (RuntimeError: no such camera)"),
        ({"fault": "nothing"}, "failed for 'train' (ValueError: not enough values"),
        ({"fault": "ragged"}, "failed for 'train' (ValueError"),
        ({"fault": "huge"}, f"data.factory: {__name__}:made: the labels go up to 3000"),
        ({"fault": "floats"}, f"data.factory: {__name__}:made('train'): the images are float64"),
        ({"colour": True}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_factory_that_fails_says_how(options: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(config(**options), "train")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package:images", "there is no module no_such_package; put its folder"),
        ("dydist.data:no_such_name", "dydist.data has no no_such_name; name a function"),
        ("dydist:__version__", "is a str; it must be a function"),
    ],
)
def test_a_factory_that_is_none_is_named(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(DataConfig(name="factory", factory=name), "train")
    assert said in str(caught.value)


def test_the_factory_of_the_guide(tmp_path: Path) -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "docs" / "your-images.md").read_text(), re.DOTALL
    )
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}-images.npy", COLOUR)
        np.save(tmp_path / f"{split}-labels.npy", LABELS % 2)
    module = types.ModuleType("my_images")
    exec(code, module.__dict__)
    with patch.dict(sys.modules, my_images=module):
        options = {"folder": str(tmp_path)}
        found = open_dataset(DataConfig(name="factory", factory="my_images:scans", options=options), "test")
    np.testing.assert_array_equal(found.images, COLOUR)
    assert isinstance(found.images.base, np.memmap)
    assert found.classes == ("healthy", "ill")
