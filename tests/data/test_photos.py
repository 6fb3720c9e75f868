"""Random resized crop and colour jitter: torchvision's, up to a grey level, and the same bits in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dydist.config import DataConfig
from dydist.data import open_dataset
from dydist.data.augment import Augmentation, draw_augmentation
from dydist.data.loader import ShardedLoader, StepBatch
from dydist.data.order import Order
from dydist.data.photos import draw_jitter, draw_windows, jitter, resized_crop
from dydist.data.torchvision_shim import import_torchvision
from dydist.randomness import generator

import_torchvision()
from torchvision.transforms.v2 import functional as published  # noqa: E402

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 3, 33, 33), dtype=np.uint8))


def windows(least: float = 0.08) -> torch.Tensor:
    return torch.from_numpy(draw_windows(generator(0, "test"), count=24, size=33, least=least))


def test_a_window_is_scaled_as_torchvision_does() -> None:
    found = resized_crop(IMAGES, windows())
    for image, (top, bottom, left, right), own in zip(IMAGES, windows().tolist(), found, strict=True):
        expected = published.resized_crop(
            image, top, left, bottom - top, right - left, [33, 33], antialias=False
        )
        assert (own.int() - expected.int()).abs().max() <= 2
    whole = torch.tensor([[0, 33, 0, 33]]).repeat(24, 1)
    assert torch.equal(resized_crop(IMAGES, whole), IMAGES)


def test_colours_are_changed_as_torchvision_does() -> None:
    factors = torch.from_numpy(draw_jitter(generator(0, "test"), count=24, strength=0.6))
    found = jitter(IMAGES, factors)
    for image, (b, c, s), own in zip(IMAGES, (factors / 256).tolist(), found, strict=True):
        expected = published.adjust_brightness(image, b)
        expected = published.adjust_saturation(published.adjust_contrast(expected, c), s)
        assert (own.int() - expected.int()).abs().max() <= 5
    assert torch.equal(jitter(IMAGES, torch.full((24, 3), 256)), IMAGES)


def test_an_image_has_the_same_bits_alone() -> None:
    factors = torch.from_numpy(draw_jitter(generator(1, "test"), count=24, strength=0.4))
    together = jitter(resized_crop(IMAGES, windows()), factors)
    for row in range(24):
        alone = slice(row, row + 1)
        assert torch.equal(
            jitter(resized_crop(IMAGES[alone], windows()[alone]), factors[alone]), together[alone]
        )


def test_a_batch_has_the_same_bits_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = torch.from_numpy(draw_jitter(generator(2, "test"), count=24, strength=0.4))
    whole = resized_crop(IMAGES, windows()), jitter(IMAGES, factors)
    monkeypatch.setattr("dydist.data.photos._CACHED", 7 * 3 * 33 * 33)
    assert torch.equal(resized_crop(IMAGES, windows()), whole[0])
    assert torch.equal(jitter(IMAGES, factors), whole[1])
    assert resized_crop(IMAGES[:0], windows()[:0]).shape == (0, 3, 33, 33)


def test_windows_have_the_areas_and_aspects_of_the_paper() -> None:
    top, bottom, left, right = draw_windows(generator(0, "areas"), count=20_000, size=224, least=0.25).T
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 224
    height, width = bottom - top, right - left
    area = height * width / 224**2
    assert area.min() > 0.245
    assert area.max() > 0.95
    assert np.quantile(area, 0.25) == pytest.approx(0.42, abs=0.03)
    assert np.median(width / height) == pytest.approx(1, abs=0.02)
    assert (width / height).max() <= 1.36
    narrow = draw_windows(generator(0, "areas"), count=100, size=1, least=0.08)
    assert (narrow == [0, 1, 0, 1]).all()


def test_nothing_new_is_drawn_unless_it_is_on() -> None:
    def draw(config: DataConfig) -> Augmentation:
        return draw_augmentation(config, generator(0, "draws"), count=8, size=32, flip=True)

    old = draw(DataConfig(cutout=4, mixup=0.2))
    new = draw(DataConfig(cutout=4, mixup=0.2, colour_jitter=0.4))
    assert old.window is None
    assert old.jitter is None
    assert new.jitter is not None
    np.testing.assert_array_equal(old.cutout, new.cutout)


def test_shards_computed_together_are_the_shards_computed_alone() -> None:
    config = DataConfig(name="synthetic", limit=64, resized_crop=0.3, colour_jitter=0.4, flip=True, cutout=4)
    dataset = open_dataset(config, "train")
    order = Order(seed=3, size=64, batch_size=16, shards=4)

    def load(together: bool) -> list[StepBatch]:
        device = torch.device("cpu")
        with ShardedLoader(
            dataset, config, order, range(4), device=device, start=0, stop=3, together=together
        ) as loader:
            return list(loader)

    for joint, single in zip(load(True), load(False), strict=True):
        for column, one in enumerate(single.groups):
            assert torch.equal(joint.groups[0].images[column::4], one.images)
