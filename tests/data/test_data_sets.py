"""A data set is one entry in dydist/config/data_sets.py: whatever asks about it finds it there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import patch

import numpy as np
import pytest
from torch import nn

from dydist.cli import data
from dydist.cli.main import main
from dydist.compare.many import cost_of
from dydist.config import DataConfig, data_sets, schema
from dydist.config.data_sets import DATA_SETS, DataName, DataSet
from dydist.data import open_dataset
from dydist.data.dataset import Arrays
from helpers.support import train


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_an_entry_says_what_the_images_are(name: DataName) -> None:
    found = open_dataset(DataConfig(name=name, limit=8), "train")
    known = DATA_SETS[name]
    assert (len(found.classes), found.images.shape[1:]) == (known.classes, (3, known.side, known.side))


def test_every_name_has_an_entry() -> None:
    assert get_args(DataName) == tuple(DATA_SETS)


def test_what_has_a_direction_is_not_flipped() -> None:
    assert [name for name, known in DATA_SETS.items() if not known.flip] == ["digits", "synthetic"]


def stripes(config: DataConfig, split: Literal["train", "test"], **_: Any) -> Arrays:
    """Upright and level stripes, 16 pixels a side."""
    labels = np.arange(64 if split == "train" else 16) % 2
    upright = np.broadcast_to(np.arange(16, dtype=np.uint8) // 2 % 2 * 255, (16, 16))
    images = np.where(labels[:, None, None, None], upright, upright.T).repeat(3, axis=1)
    return Arrays(images.astype(np.uint8), labels, ("level", "upright"))


def add_stripes() -> None:
    """What a name and an entry more in dydist/config/data_sets.py do."""
    names: Any = Literal["cifar10", "stripes"]
    data_sets.DataName = schema.DataName = data.DataName = names  # type: ignore[misc]
    DATA_SETS["stripes"] = DataSet(  # type: ignore[index]
        opener=f"{__name__}:stripes",
        classes=2,
        side=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        flip=True,
        note="Stripes are nobody's.",
    )


def test_a_data_set_with_an_entry_is_trained_on_exported_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.name", "stripes", "--model.width", "0.0625", "--train.batch_size", "16"]
    flags += ["--model.kind", "static", "--parallel.reduce", "exact", "--train.max_steps", "1"]
    flags += ["--parallel.threads", "1", "--monitor.quiet", "true"]
    train([*flags, "--run.dir", tmp_path], 1, tmp_path / "log", before=add_stripes)
    names = [patch.object(module, "DataName", DataName) for module in (data_sets, schema, data)]
    with patch.dict(DATA_SETS), names[0], names[1], names[2]:
        add_stripes()
        assert main(["data", "prepare", "--name", "stripes", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["image_shape"] == [3, 16, 16]
        run = str(tmp_path / "run")
        assert main(["export", run, "--to", "safetensors", "--output", str(tmp_path / "x.safetensors")]) == 0
        own, cifar = (cost_of({"data.name": name}) for name in ("stripes", "cifar10"))
        assert own.parameters == cifar.parameters - 8 * (512 + 1), "two classes, not ten"
        assert own.multiply_adds < cifar.multiply_adds // 3, "16 pixels, not 32"
    (card,) = tmp_path.glob("x*.md")
    assert "Stripes are nobody's." in card.read_text()


def nested(num_classes: int, *, body: dict[str, int]) -> nn.Module:
    """A network of one option, in a mapping."""
    width = body["width"]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes, bias=False),
    )


def test_the_cost_of_a_network_whose_options_are_nested() -> None:
    settings = {"data.name": "cifar10", "model.factory": f"{__name__}:nested", "model.options.body.width": 6}
    assert cost_of(settings, own=True).parameters == 3 * 6 * 9 + 6 * 10
