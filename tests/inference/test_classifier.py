"""`dydist.load`: a trained network that is called on images as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dydist
from dydist.checkpoint import open_storage
from dydist.data import ImageDataset
from dydist.data.picture import read_picture
from dydist.errors import UserError
from dydist.inference import load_trained, predict
from dydist.inference.classifier import as_batch

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_every_form_of_an_image_gives_the_same_batch(tmp_path: Path) -> None:
    expected = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
    pictures = [Image.fromarray(one) for one in IMAGES]
    for form in (IMAGES, torch.from_numpy(IMAGES), pictures, tuple(pictures)):
        assert torch.equal(as_batch(form, 8), expected)
    assert torch.equal(as_batch(IMAGES[0], 8), expected[:1])
    assert torch.equal(as_batch(pictures[0], 8), expected[:1])
    grey = IMAGES[..., :1]
    assert torch.equal(as_batch(grey, 8), expected[:, :1].expand(-1, 3, -1, -1))
    wide = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert torch.equal(as_batch(wide, 8)[0], torch.from_numpy(read_picture(str(tmp_path / "wide.png"), 8)))


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES.astype(np.float32), r"ndarray float32 \[5, 8, 8, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"ndarray uint8 \[5, 3, 8, 8\]"),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), r"Tensor torch.uint8 \[0, 8, 8, 3\]"),
        (["cat.png"], "list"),
        ([], "list"),
    ],
)
def test_other_values_are_refused(images: object, told: str) -> None:
    with pytest.raises(UserError, match=f"^images: {told} is not allowed; give uint8"):
        as_batch(images, 8)  # type: ignore[arg-type]


def test_it_gives_what_predict_gives(run_dir: Path, test_set: ImageDataset) -> None:
    images = test_set.images[:20].transpose(0, 2, 3, 1)
    model = dydist.load(run_dir)
    trained = load_trained(str(run_dir), open_storage, note=pytest.fail)
    expected = list(predict(trained, test_set.images[:20]))
    found = model.probabilities(images)
    for row, one in zip(found.tolist(), expected, strict=True):
        assert dict(zip(model.classes, row, strict=True)) == dict(one.probabilities)
    assert model.predict(images) == [
        max(one.probabilities, key=one.probabilities.__getitem__) for one in expected
    ]
    assert not model.training
    assert not any(part.requires_grad for part in model.parameters())
    with pytest.raises(UserError, match=r"^model: this run trained dydist's own network"):
        dydist.load(run_dir, model=lambda: None)  # type: ignore[arg-type,return-value]
