"""RandAugment: torchvision's operations, up to a grey level, and the same bits in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dydist.config import DataConfig
from dydist.data.augment import apply_augmentation, draw_augmentation, interleave
from dydist.data.rand_augment import OPERATIONS, STRONGEST, draw_rand_augment, rand_augment
from dydist.data.torchvision_shim import import_torchvision
from dydist.randomness import generator

import_torchvision()
from torchvision.transforms.v2 import RandAugment  # noqa: E402

NAMES = dict(
    zip(
        OPERATIONS,
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize "
        "AutoContrast Equalize".split(),
        strict=True,
    )
)
LEVELS = {"brightness": 1, "colour": 3, "contrast": 3, "sharpness": 2, "autocontrast": 1}
"""The largest difference to torchvision, which rounds down, in grey levels; of other operations: none."""
ROWS = np.random.default_rng(0)
SMALL = Image.fromarray(ROWS.integers(0, 256, (8, 8, 3), dtype=np.uint8))
PHOTO = torch.from_numpy(np.asarray(SMALL.resize((33, 33), Image.Resampling.BICUBIC)).copy()).permute(2, 0, 1)
PHOTO = (PHOTO.int() * 3 // 4 + 55).to(
    torch.uint8
)  # neither black nor white, so that every operation changes it


@pytest.mark.parametrize("signed", [9, -9, STRONGEST])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_torchvision(name: str, signed: int) -> None:
    published = RandAugment(magnitude=abs(signed))
    make, has_sign = published._AUGMENTATION_SPACE[NAMES[name]]
    strengths = make(published.num_magnitude_bins, 33, 33)
    strength = 0.0 if strengths is None else float(strengths[abs(signed)])
    strength = -strength if has_sign and signed < 0 else strength
    expected = published._apply_image_or_video_transform(
        PHOTO, NAMES[name], strength, published.interpolation, published._fill
    )
    drawn = np.array([[[OPERATIONS.index(name), signed], [0, signed]]])
    found = rand_augment(PHOTO[None], drawn)[0]
    assert found.dtype == torch.uint8
    different = (found.int() - expected.int()).abs()
    if name in ("shear_x", "shear_y", "rotate"):  # the nearest of two pixels at equal distance is either
        assert (different > 0).float().mean() < 0.02
    else:
        assert different.max() <= LEVELS.get(name, 0)
    assert torch.equal(found, PHOTO) == (name == "identity")


def test_solarize_inverts_from_the_exact_threshold_at_every_magnitude() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(STRONGEST + 1, 3, 16, 16)
    magnitudes = np.arange(STRONGEST + 1)
    solarize, identity = OPERATIONS.index("solarize"), OPERATIONS.index("identity")
    drawn = np.stack([np.stack([np.full(31, name), magnitudes], 1) for name in (solarize, identity)], 1)
    found = rand_augment(values, drawn)
    for magnitude in magnitudes:
        inverted = values[0].int() * STRONGEST >= 255 * (STRONGEST - magnitude)
        assert torch.equal(found[magnitude], torch.where(inverted, 255 - values[0], values[0])), magnitude


def test_an_image_has_the_same_bits_alone() -> None:
    images = torch.from_numpy(ROWS.integers(0, 256, (64, 3, 33, 33), dtype=np.uint8))
    drawn = draw_rand_augment(generator(0, "test"), count=64, magnitude=9)
    before, together = images.clone(), rand_augment(images, drawn)
    assert torch.equal(images, before)
    for row in range(64):
        assert torch.equal(rand_augment(images[row : row + 1], drawn[row : row + 1])[0], together[row])


def test_every_operation_is_drawn_as_often_with_either_sign() -> None:
    drawn = draw_rand_augment(generator(0, "often"), count=14_000, magnitude=9)
    counts = np.bincount(drawn[..., 0].ravel(), minlength=len(OPERATIONS))
    assert counts.min() > 1_800
    assert counts.max() < 2_200
    assert set(np.unique(drawn[..., 1])) == {-9, 9}
    assert abs(drawn[..., 1].mean()) < 0.2


def test_shards_get_theirs_in_any_company() -> None:
    config = DataConfig(rand_augment=9)
    images = torch.from_numpy(ROWS.integers(0, 256, (2, 5, 3, 32, 32), dtype=np.uint8))
    plans = [draw_augmentation(config, generator(0, "a", 1, s), count=5, size=32, flip=True) for s in (0, 1)]
    apart = [apply_augmentation(one, plan, fill=(0, 0, 0)) for one, plan in zip(images, plans, strict=True)]
    both = apply_augmentation(images.transpose(0, 1).flatten(0, 1), interleave(plans), fill=(0, 0, 0))
    assert torch.equal(both.unflatten(0, (5, 2)).transpose(0, 1), torch.stack(apart))


def test_without_it_the_other_draws_are_as_before() -> None:
    without = draw_augmentation(DataConfig(), generator(0, "a"), count=5, size=32, flip=True)
    assert without.operations is None
    with_it = draw_augmentation(DataConfig(rand_augment=9), generator(0, "a"), count=5, size=32, flip=True)
    assert without.crop is not None
    assert with_it.crop is not None
    assert np.array_equal(without.crop, with_it.crop)
