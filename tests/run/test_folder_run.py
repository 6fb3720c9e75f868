"""Runs on a folder of images: from the guide's commands to a prediction, the same bits on any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dydist.cli.main import main
from dydist.config import Config, DataConfig, TrainConfig
from dydist.data.folder import find_images
from dydist.data.splits import open_splits
from dydist.engine import World, start_world
from dydist.errors import UserError
from dydist.run.session import check_images
from helpers.support import REPOSITORY, train

SMALL = [
    "--model.width",
    "0.0625",
    "--train.batch_size",
    "16",
    "--train.max_steps",
    "4",
    "--parallel.shards",
    "4",
]
SMALL += [
    "--parallel.threads",
    "1",
    "--monitor.quiet",
    "true",
    "--parallel.reduce",
    "exact",
    "--data.limit",
    "64",
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Reddish and bluish images."""
    rng = np.random.default_rng(0)
    for name, tint in (("blue", (0, 0, 120)), ("red", (120, 0, 0))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 130, (24, 32, 3)) + np.array(tint)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def test_the_commands_of_the_guide(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (REPOSITORY / "docs" / "your-images.md").read_text()
    assert "dydist data prepare --name folder --root photos --side 64\n" in guide
    flags = ["--data.name", "folder", "--data.root", "photos", "--data.side", "64"]
    assert f"python dydist/train.py {' '.join(flags)}\n" in guide
    monkeypatch.chdir(photos.parent)
    assert main(["data", "prepare", "--name", "folder", "--root", "photos", "--side", "64"]) == 0
    printed = capsys.readouterr().out
    assert "64 training and 16 test images of 3 × 64 × 64" in printed
    assert "--data.root" in printed
    flags[3], flags[5] = str(photos), "16"
    place = ["--run.dir", photos.parent / "runs", "--run.name"]
    train([*flags, *SMALL, *place, "one"], 1, photos.parent / "log")
    run = str(photos.parent / "runs" / "one")
    assert main(["evaluate", run, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 16
    assert main(["predict", run, str(photos / "red" / "1.jpg"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["images"][0]["classes"]) == 2
    assert main(["compare", run, run]) == 0


@pytest.mark.long
def test_two_processes_that_convert_the_folder_give_the_bits_of_one(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.name", "folder", "--data.root", photos, "--data.side", "16", *SMALL]
    place = ["--run.dir", photos.parent / "runs", "--run.name"]
    train([*flags, *place, "two"], 2, photos.parent / "log2")
    train([*flags, *place, "one"], 1, photos.parent / "log1")
    runs = [str(photos.parent / "runs" / name) for name in ("one", "two")]
    assert main(["compare", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_equal"] is True
    Image.new("RGB", (20, 20)).save(photos / "red" / "new.png")
    text = train([*flags, *place, "one", "--train.max_steps", "6"], 1, photos.parent / "log3", code=2)
    assert "these are not the images that this run was started with" in text


def test_ranks_that_see_other_images_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(
        data=DataConfig(name="folder", root=str(photos), side=8), train=TrainConfig(batch_size=16)
    )
    seen, world = [open_splits(config)], start_world(config)
    one = photos / find_images(photos, test_fraction=0.2, seed=0).splits["train"][0].path
    one.unlink()
    seen.append(open_splits(config))
    Image.new("RGB", (9, 9)).save(one)
    seen.append(open_splits(config))
    ranks: list[Any] = []
    monkeypatch.setattr(World, "gather", lambda self, value: ranks.append(value) or [*ranks])
    check_images(seen[0], world)
    for splits in seen[1:]:
        del ranks[1:]
        with pytest.raises(
            UserError, match=r"data\.root: rank 1 sees other images than rank 0: 6\d and 64 for"
        ):
            check_images(splits, world)
