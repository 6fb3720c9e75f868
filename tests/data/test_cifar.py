"""Reading CIFAR: the real images, every damaged folder of the table, and who may read them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dydist.config import DataConfig
from dydist.data import open_dataset
from dydist.data.cifar import CIFAR10, data_root
from dydist.errors import UserError
from helpers.damaged import DAMAGED, FOLDER, TEN, Damaged, batch, write, write_cifar10
from helpers.support import train


def offline(root: Path, **changes: object) -> DataConfig:
    return DataConfig(**{"name": "cifar10", "root": str(root), "download": False, **changes})  # type: ignore[arg-type]


def test_real_cifar10_comes_out_as_it_was_published(cifar10_exact_root: Path, tmp_path: Path) -> None:
    config = offline(cifar10_exact_root)
    train_set = open_dataset(config, "train", cache_dir=tmp_path)
    test_set = open_dataset(config, "test", cache_dir=tmp_path)
    assert (train_set.images.shape, test_set.images.shape) == ((5085, 3, 32, 32), (1017, 3, 32, 32))
    assert train_set.images.dtype == np.uint8
    assert train_set.labels.dtype == np.int64
    assert train_set.classes == TEN
    for number in range(1, 6):  # against numpy's own unpickling, the way the authors' page shows it
        path = cifar10_exact_root / FOLDER / f"data_batch_{number}"
        published = pickle.loads(path.read_bytes(), encoding="bytes")
        rows = slice(1017 * (number - 1), 1017 * number)
        assert np.array_equal(train_set.images[rows].reshape(-1, 3072), published[b"data"])
        assert train_set.labels[rows].tolist() == published[b"labels"]
    pixels = train_set.images / np.float32(255)
    assert pixels.mean((0, 2, 3)) == pytest.approx(train_set.mean, abs=0.01)
    assert pixels.std((0, 2, 3)) == pytest.approx(train_set.std, abs=0.01)


def test_real_cifar100_has_its_fine_labels(cifar100_exact_root: Path, tmp_path: Path) -> None:
    config = offline(cifar100_exact_root, name="cifar100")
    train_set = open_dataset(config, "train", cache_dir=tmp_path)
    test_set = open_dataset(config, "test", cache_dir=tmp_path)
    assert (len(train_set), len(test_set), len(train_set.classes)) == (486, 916, 100)
    published = pickle.loads((cifar100_exact_root / "cifar-100-python/test").read_bytes(), encoding="latin1")
    assert np.array_equal(test_set.images.reshape(-1, 3072), published["data"])
    assert test_set.labels.tolist() == published["fine_labels"]
    pixels = train_set.images / np.float32(255)  # 486 images alone: their mean strays
    assert pixels.mean((0, 2, 3)) == pytest.approx(train_set.mean, abs=0.03)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_files_written_by_any_python_are_read(tmp_path: Path, protocol: int) -> None:
    root = write_cifar10(tmp_path / "data")
    content = batch(np.random.default_rng(7), count=31)
    text_keys = {key.decode(): value for key, value in content.items()}
    write(root / FOLDER / "test_batch", text_keys if protocol > 3 else content, protocol)
    found = open_dataset(offline(root), "test")
    assert np.array_equal(found.images.reshape(-1, 3072), content[b"data"])
    assert found.labels.tolist() == content[b"labels"]


def test_limit_takes_the_first_images_and_nothing_can_be_changed(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path / "data")
    whole = open_dataset(offline(root), "train")
    few = open_dataset(offline(root, limit=7), "train")
    assert len(few) == len(few.labels) == 7
    assert len(whole) == 100
    assert np.array_equal(few.images, whole.images[:7])
    assert len(open_dataset(offline(root, limit=10**9), "train")) == 100
    for array in (few.images, few.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("case", DAMAGED, ids=lambda case: case.name)
def test_a_damaged_folder_is_told_with_path_and_remedy(
    case: Damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_cifar10(tmp_path / "data")
    case.damage(root / FOLDER)
    with pytest.raises(UserError) as caught:
        open_dataset(offline(root), "train")
    for words in (*case.says, str(root / FOLDER), "dydist data prepare", "data.root", "digits"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("executed"))
    assert not [path for path in root.rglob("*") if "partial" in path.name or path.suffix == ".npy"]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.long if place else ()) for place, case in enumerate(DAMAGED)],
    ids=lambda case: case.name,
)
def test_a_run_on_a_damaged_folder_exits_2(case: Damaged, tmp_path: Path) -> None:
    root = write_cifar10(tmp_path / "data")
    case.damage(root / FOLDER)
    arguments = ["--data.root", root, "--data.download", "false", "--run.dir", tmp_path / "runs"]
    printed = train(arguments, 1, tmp_path / "log", code=2)
    for words in case.says:
        assert words in printed
    (told,) = [line for line in printed.splitlines() if line and not line.startswith("converting ")]
    assert told.startswith("dydist: ")
    for words in (str(root / FOLDER), "dydist data prepare", "cifar-10-python.tar.gz"):
        assert words in told


@pytest.fixture
def plain_user_root() -> Iterator[Path]:
    """A data folder, with this process as a user whom permissions bind (root is made `nobody` meanwhile)."""
    with tempfile.TemporaryDirectory(prefix="dydist-test-") as place:
        os.chmod(place, 0o755)
        root = write_cifar10(Path(place) / "data")
        superuser = os.geteuid() == 0
        if superuser:
            os.seteuid(65534)
        try:
            yield root
        finally:
            if superuser:
                os.seteuid(0)
            for path in (root / FOLDER, *(root / FOLDER).iterdir()):
                path.chmod(0o755)


def test_a_folder_that_cannot_be_listed_is_told(plain_user_root: Path) -> None:
    _as_root((plain_user_root / FOLDER / "test_batch").unlink)
    _chmod_as_owner(plain_user_root / FOLDER, 0o311)
    with pytest.raises(UserError, match=r"cifar-10-batches-py cannot be read: Permission denied"):
        open_dataset(offline(plain_user_root), "train", cache_dir=_own_cache(plain_user_root))


@pytest.mark.parametrize("what", ["data_batch_2", "batches.meta", "."])
def test_unreadable_files_are_told(
    plain_user_root: Path, what: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = plain_user_root / FOLDER / what
    _chmod_as_owner(target, 0o000)
    with pytest.raises(UserError, match=r"cannot be read: Permission denied.*chmod u") as caught:
        open_dataset(offline(plain_user_root), "train", cache_dir=_own_cache(plain_user_root))
    assert str(target.resolve()) in str(caught.value)


def test_data_that_cannot_be_written_is_converted_in_the_users_cache(
    plain_user_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _own_cache(plain_user_root)
    _chmod_as_owner(plain_user_root, 0o555)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert len(open_dataset(offline(plain_user_root), "test")) == 20
    assert len(list(home.glob("dydist/*/cifar10-*/index.json"))) == 1
    assert not (plain_user_root / ".dydist-cache").exists()
    _chmod_as_owner(home / "dydist", 0o000)
    with pytest.raises(UserError, match=r"no place to go.*XDG_CACHE_HOME"):
        open_dataset(offline(plain_user_root), "test")
    _chmod_as_owner(home / "dydist", 0o755)


def _as_root(action: object, *arguments: object) -> None:
    """Do one thing as the user who started the tests, then be the plain user again."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    try:
        action(*arguments)  # type: ignore[operator]
    finally:
        os.seteuid(user)


def _chmod_as_owner(path: Path, mode: int) -> None:
    _as_root(os.chmod, path, mode)


def _own_cache(root: Path) -> Path:
    """A folder beside the data that the plain user may write."""
    path = root.parent / "cache"
    _as_root(path.mkdir)
    _as_root(os.chmod, path, 0o777)
    return path


def test_the_batches_folder_itself_as_root(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    for name in CIFAR10.files:
        (folder / name).touch()
    assert data_root(CIFAR10, folder) == tmp_path
    assert data_root(CIFAR10, tmp_path) == tmp_path
    assert data_root(CIFAR10, tmp_path / "nothing") == tmp_path / "nothing"
