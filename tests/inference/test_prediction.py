"""`dydist predict`: what the network says of image files, however many there are and whatever else lies beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dydist.cli.main import main
from dydist.data.augment import normalise
from dydist.errors import UserError
from dydist.inference import TrainedModel, predict
from dydist.models import static_resnet18

COUNT = 70
"""More than one batch."""


@pytest.fixture(scope="module")
def folder(thousand: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test images as PNG files."""
    place = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        Image.fromarray(thousand[number].transpose(1, 2, 0)).save(place / f"{number:04d}.png")
    return place


def test_files_get_the_probabilities_of_their_pixels(
    folder: Path, run_dir: Path, model: TrainedModel, thousand: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run_dir), str(folder), "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == []
    assert [Path(one["path"]).name for one in found["images"]] == [
        f"{number:04d}.png" for number in range(COUNT)
    ]
    with torch.no_grad():
        images = normalise(torch.from_numpy(thousand[:COUNT]), model.data.mean, model.data.std)
        expected = model.network(images).softmax(1)
    for one, row in zip(found["images"], expected, strict=True):
        shares, order = row.topk(3)
        assert [c["class"] for c in one["classes"]] == [model.data.classes[number] for number in order]
        assert [c["probability"] for c in one["classes"]] == pytest.approx(shares.tolist(), abs=1e-5)
        assert "attention" not in one


def test_attention_is_each_layers_mixture(
    folder: Path, run_dir: Path, model: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "0000.png"), str(folder / "0001.png")]
    assert main(["predict", str(run_dir), *files, "--attention", "--json"]) == 0
    first, second = (one["attention"] for one in json.loads(capsys.readouterr().out)["images"])
    assert len(first) == 19
    assert next(iter(first)) == "layer1.0.conv1"
    assert all(len(weights) == 4 and sum(weights) == pytest.approx(1) for weights in first.values())
    assert first != second
    assert main(["predict", str(run_dir), files[0], "--attention"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{files[0]}  ")
    assert f"layer4.1.conv2         {' '.join(f'{w:.3f}' for w in first['layer4.1.conv2'])}" in out
    static = replace(model, network=static_resnet18(10, width=0.0625))
    with pytest.raises(UserError, match="--attention: this network is static"):
        list(predict(static, [], attention=True))


def test_a_broken_picture_is_named_and_the_others_go_on(
    folder: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((folder / "0000.png").read_bytes()[:200])
    given = [str(folder / "0003.png"), str(broken), str(tmp_path / "gone.jpg"), str(folder / "000[45].png")]
    assert main(["predict", str(run_dir), *given, "--json"]) == 2
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [Path(one["path"]).name for one in found["images"]] == ["0003.png", "0004.png", "0005.png"]
    assert [one["path"] for one in found["failed"]] == given[1:3]
    assert f"dydist: {broken}: cannot be read: " in captured.err
    assert f"dydist: {tmp_path / 'gone.jpg'}: there is no such file" in captured.err


def test_mistakes(run_dir: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run_dir)]) == 2
    assert "no picture was given" in capsys.readouterr().err
    assert main(["predict", str(run_dir), str(folder), "--top", "0"]) == 2
    assert "--top: 0 is not allowed" in capsys.readouterr().err
