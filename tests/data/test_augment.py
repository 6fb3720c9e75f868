"""Augmentation against a slow reference, an image at a time, and its independence of what shares the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.config import DataConfig
from dydist.data.augment import (
    Augmentation,
    apply_augmentation,
    draw_augmentation,
    interleave,
    mix_images,
    mix_targets,
    normalise,
)
from dydist.randomness import generator

FILL = (125, 123, 114)
GOLDEN = {
    "crop": [[7, 6], [7, 5], [2, 5]],
    "flip": [False, True, True],
    "cutout": [[20, 28, 2, 10], [0, 7, 23, 31], [21, 29, 4, 12]],
    "partner": [2, 0, 1],
    "box": [[4, 19, 0, 14]] * 3,
}
SHARE = 0.794921875
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

configs = st.builds(
    DataConfig,
    crop_padding=st.integers(0, 5),
    cutout=st.integers(0, 9),
    mixup=st.just(0.0),
    cutmix=st.sampled_from([0.0, 0.3, 1.0]),
) | st.builds(
    DataConfig, crop_padding=st.integers(0, 5), cutout=st.integers(0, 9), mixup=st.sampled_from([0.2, 1.0])
)
cases = st.fixed_dictionaries(
    {
        "config": configs,
        "shards": st.integers(1, 4),
        "count": st.integers(1, 6),
        "size": st.integers(1, 12),
        "flip": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
)


def draw(
    config: DataConfig, shards: int, count: int, size: int, flip: bool, seed: int
) -> tuple[list[Augmentation], np.ndarray, np.ndarray]:
    """Plans of each shard, images uint8 [shards, count, 3, size, size] and labels [shards, count]."""
    plans = [
        draw_augmentation(config, generator(seed, "augment", 5, shard), count=count, size=size, flip=flip)
        for shard in range(shards)
    ]
    rng = generator(seed, "images")
    images = rng.integers(0, 256, (shards, count, 3, size, size), dtype=np.uint8)
    return plans, images, rng.integers(0, 10, (shards, count))


def rows(shards: np.ndarray) -> torch.Tensor:
    """[shards, count, …] → [count·shards, …], interleaved as a batch is."""
    return torch.from_numpy(np.ascontiguousarray(shards.swapaxes(0, 1).reshape(-1, *shards.shape[2:])))


def in_square(square: Sequence[int], y: int, x: int) -> bool:
    top, bottom, left, right = square
    return top <= y < bottom and left <= x < right


def reference(images: np.ndarray, plan: Augmentation) -> np.ndarray:
    """uint8 [count, 3, H, W] → the same, a pixel at a time."""
    result = np.empty_like(images)
    count, _, size, _ = images.shape
    for n in range(count):
        for y in range(size):
            for x in range(size):
                across = size - 1 - x if plan.flip is not None and plan.flip[n] else x
                top, left = plan.crop[n] if plan.crop is not None else (plan.padding, plan.padding)
                source_y, source_x = y + top - plan.padding, across + left - plan.padding
                inside = 0 <= source_y < size and 0 <= source_x < size
                result[n, :, y, x] = images[n, :, source_y, source_x] if inside else 0
                if plan.cutout is not None and in_square(plan.cutout[n], y, x):
                    result[n, :, y, x] = FILL
    return result


def reference_mix(values: np.ndarray, plan: Augmentation) -> np.ndarray:
    """float [count, 3, H, W] mixed with partners, an image at a time, in float64."""
    result = values.astype(np.float64)
    if plan.partner is None or plan.share is None:
        return result
    for n, other in enumerate(plan.partner):
        if plan.box is None:
            share = float(plan.share[n])
            result[n] = share * values[n].astype(np.float64) + (1 - share) * values[other]
        else:
            top, bottom, left, right = plan.box[n]
            result[n, :, top:bottom, left:right] = values[other, :, top:bottom, left:right]
    return result


@settings(max_examples=120, deadline=None)
@given(case=cases)
def test_a_batch_is_augmented_as_one_image_at_a_time_would_be(case: dict) -> None:
    plans, images, labels = draw(**case)
    joined = interleave(plans)
    augmented = apply_augmentation(rows(images), joined, fill=FILL)
    expected = np.stack([reference(shard, plan) for shard, plan in zip(images, plans, strict=True)])
    assert augmented.dtype == torch.uint8
    assert torch.equal(augmented, rows(expected))

    floats = normalise(augmented, MEAN, STD)
    plain = (expected / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    torch.testing.assert_close(floats.double(), rows(plain), atol=1e-6, rtol=1e-6)

    mixed = np.stack([reference_mix(shard, plan) for shard, plan in zip(plain, plans, strict=True)])
    torch.testing.assert_close(mix_images(floats, joined).double(), rows(mixed), atol=2e-6, rtol=1e-6)

    targets = mix_targets(rows(labels), joined, 10)
    if joined.partner is None:
        assert targets is None
        return
    assert targets is not None
    assert targets.shape == (len(floats), 10)
    for shard, plan in enumerate(plans):
        for n in range(case["count"]):
            assert plan.share is not None
            assert plan.partner is not None
            expected_row = np.zeros(10)
            expected_row[labels[shard, n]] += plan.share[n]
            expected_row[labels[shard, plan.partner[n]]] += 1 - plan.share[n]
            row = targets[n * case["shards"] + shard].double().numpy()
            assert row == pytest.approx(expected_row, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_an_image_comes_out_the_same_bit_for_bit_whatever_shares_its_batch(case: dict) -> None:
    plans, images, labels = draw(**case)

    def finish(shards: np.ndarray, plan: Augmentation) -> torch.Tensor:
        batch = apply_augmentation(rows(shards), plan, fill=FILL)
        return mix_images(normalise(batch, MEAN, STD), plan)

    together = finish(images, interleave(plans))
    targets = mix_targets(rows(labels), interleave(plans), 10)
    for shard, plan in enumerate(plans):
        own = slice(shard, None, case["shards"])
        assert torch.equal(together[own], finish(images[shard : shard + 1], interleave([plan])))
        assert torch.equal(together[own], finish(images[shard : shard + 1], plan))
        if targets is not None:
            alone = mix_targets(torch.from_numpy(labels[shard]), plan, 10)
            assert alone is not None
            assert torch.equal(targets[own], alone)


@pytest.mark.parametrize("size", [8, 9, 32, 33])
def test_rounding_does_not_depend_on_threads_or_place(size: int) -> None:
    """Sizes that fill vector registers and sizes that leave a rest; a batch large enough to be split."""
    plan = interleave(
        [
            draw_augmentation(DataConfig(mixup=1.0), generator(0, "a", shard), count=64, size=size, flip=True)
            for shard in range(3)
        ]
    )
    images = torch.randint(0, 256, (192, 3, size, size), dtype=torch.uint8)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(mix_images(normalise(images, MEAN, STD), plan))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(normalise(images, MEAN, STD)[5:6], normalise(images[5:6], MEAN, STD))


def test_a_draw_depends_on_its_generator_alone() -> None:
    config = DataConfig(cutout=8, cutmix=1.0)
    one, same, other = (
        draw_augmentation(config, generator(0, "augment", 7, shard), count=16, size=32, flip=True)
        for shard in (3, 3, 4)
    )
    for name in ("crop", "flip", "cutout", "partner", "share", "box"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
        assert name in ("share", "box") or not np.array_equal(getattr(one, name), getattr(other, name))


def test_draws_are_those_of_earlier_releases() -> None:
    """A run that goes on under a new release must see what it would have seen."""
    rng = generator(3, "augment", 7, 2)
    plan = draw_augmentation(DataConfig(cutout=8, cutmix=1.0), rng, count=3, size=32, flip=True)
    drawn = {field: getattr(plan, field).tolist() for field in ("crop", "flip", "cutout", "partner", "box")}
    assert drawn == GOLDEN
    assert plan.share is not None
    assert plan.share.tolist() == pytest.approx([SHARE] * 3)


def test_what_comes_later_in_the_order_of_draws_changes_nothing_before_it() -> None:
    def drawn(**changes: float) -> Augmentation:
        config = DataConfig(**changes)  # type: ignore[arg-type]
        return draw_augmentation(config, generator(1, "augment", 2, 3), count=16, size=32, flip=True)

    plain, cut, mixed = drawn(), drawn(cutout=8), drawn(cutout=8, mixup=0.2)
    assert np.array_equal(plain.crop, cut.crop)  # type: ignore[arg-type]
    assert np.array_equal(plain.flip, mixed.flip)  # type: ignore[arg-type]
    assert np.array_equal(cut.cutout, mixed.cutout)  # type: ignore[arg-type]


def test_draws_have_the_distributions_of_the_papers() -> None:
    config = DataConfig(cutout=8)
    plan = draw_augmentation(config, generator(0, "augment"), count=40_000, size=32, flip=True)
    assert plan.crop is not None
    assert plan.flip is not None
    assert plan.cutout is not None
    offsets = np.bincount(plan.crop[:, 0] * 9 + plan.crop[:, 1], minlength=81)
    assert len(offsets) == 81
    assert offsets.min() > 40_000 / 81 * 0.8
    assert offsets.max() < 40_000 / 81 * 1.2
    assert plan.flip.mean() == pytest.approx(0.5, abs=0.01)
    tops, bottoms = plan.cutout[:, 0], plan.cutout[:, 1]
    assert (tops.min(), bottoms.max(), (bottoms - tops).max(), (bottoms - tops).min()) == (0, 32, 8, 4)
    centres = np.bincount(
        np.where(tops > 0, tops + 4, bottoms - 4)
    )  # uniform over the image, clipped at the edge
    assert centres.min() > 40_000 / 32 * 0.85
    assert len(centres) == 32


@pytest.mark.parametrize(("kind", "alpha"), [("mixup", 0.2), ("mixup", 1.0), ("cutmix", 1.0)])
def test_shares_follow_the_beta_distribution_and_partners_stay_in_the_shard(kind: str, alpha: float) -> None:
    config = DataConfig(**{kind: alpha})  # type: ignore[arg-type]
    plans = [
        draw_augmentation(config, generator(0, "augment", step), count=8, size=32, flip=True)
        for step in range(3_000)
    ]
    shares = np.array([plan.share[0] for plan in plans if plan.share is not None])
    assert all(plan.share is not None and len(set(plan.share.tolist())) == 1 for plan in plans)
    for plan in plans:
        assert sorted(plan.partner.tolist()) == list(range(8))  # type: ignore[union-attr]
    if kind == "mixup":
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.015)
    else:  # clipping at the edge leaves more of the image than drawn
        assert 0.55 < shares.mean() < 0.8
        for plan, share in zip(plans, shares, strict=True):
            top, bottom, left, right = plan.box[0]  # type: ignore[index]
            assert share == pytest.approx(1 - (bottom - top) * (right - left) / 1024)
    joined = interleave(plans[:5])
    assert joined.partner is not None
    assert (joined.partner % 5 == np.arange(40) % 5).all()


def test_nothing_set_changes_nothing() -> None:
    config = DataConfig(crop_padding=0)
    plan = draw_augmentation(config, generator(0, "augment"), count=4, size=8, flip=False)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(apply_augmentation(images, plan, fill=FILL), images)
    floats = normalise(images, MEAN, STD)
    assert mix_images(floats, plan) is floats
    assert mix_targets(torch.zeros(4, dtype=torch.int64), plan, 10) is None
    assert normalise(images, MEAN, STD, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_images_handed_in_stay_as_they_are() -> None:
    plan = draw_augmentation(
        DataConfig(cutout=4, mixup=1.0), generator(0, "augment"), count=8, size=8, flip=True
    )
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    floats = normalise(apply_augmentation(images, plan, fill=FILL), MEAN, STD)
    unmixed = floats.clone()
    mix_images(floats, plan)
    assert torch.equal(images, before)
    assert torch.equal(floats, unmixed)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_who_traces_leaves_nothing_behind(device: str) -> None:
    """An export in a fresh process comes first to these constants; what it traces with must not be used afterwards."""
    mean, std = (0.11, 0.22, 0.33), (0.41, 0.42, 0.43)  # of this test alone: nothing is kept of them yet

    class Normalise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return normalise(images, mean, std)

    images = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8, device=device)
    traced = torch.export.export(Normalise(), (images,)).module()(images)
    by_hand = (images.double() / 255 - torch.tensor(mean, device=device)[:, None, None]) / torch.tensor(
        std, device=device
    )[:, None, None]
    for got in (traced, normalise(images, mean, std)):
        torch.testing.assert_close(got.double(), by_hand, rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    config = DataConfig(cutout=8, cutmix=1.0)
    plan = draw_augmentation(config, generator(0, "augment"), count=64, size=32, flip=True)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)

    def finish(batch: torch.Tensor) -> torch.Tensor:
        return mix_images(normalise(apply_augmentation(batch, plan, fill=FILL), MEAN, STD), plan)

    assert torch.equal(finish(images.cuda()).cpu(), finish(images))
