"""The validation split: the same share of each class, the same images for every run, none of them trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.config import Config, DataConfig, ParallelConfig, TrainConfig
from dydist.data import open_dataset
from dydist.data.order import Order
from dydist.data.splits import held_out, open_split, open_splits
from dydist.errors import UserError

class_sizes = st.lists(st.integers(2, 60), min_size=1, max_size=8)


@given(class_sizes, st.data())
def test_classes_give_up_the_same_share_and_splits_are_nested(sizes: list[int], data: st.DataObject) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    least, most = len(sizes), len(labels) - len(labels) // min(sizes) - len(sizes)
    count = data.draw(st.integers(least, max(least, most)))
    try:
        out = held_out(labels, count, seed=3)
    except UserError:
        assert count > most
        return
    assert len(np.unique(out)) == count
    assert (np.diff(out) > 0).all()
    taken = np.bincount(labels[out], minlength=len(sizes))
    assert taken.min() >= 1
    assert np.abs(taken - count * np.array(sizes) / len(labels)).max() <= len(sizes)
    if count > least:
        assert set(held_out(labels, count - 1, seed=3)) < set(out)


def test_the_share_of_each_class_is_exact_where_classes_are_equal() -> None:
    labels = np.arange(5000) % 10
    assert set(np.bincount(labels[held_out(labels, 500, seed=0)])) == {50}
    assert not np.array_equal(held_out(labels, 500, seed=0), held_out(labels, 500, seed=1))


@pytest.mark.parametrize(("count", "words"), [(9, "at least 10"), (5000, "leave a class without any")])
def test_a_class_has_images_in_both_splits(count: int, words: str) -> None:
    with pytest.raises(UserError, match=f"data.validation: {count} .*{words}"):
        held_out(np.arange(5000) % 10, count, seed=0)


def test_these_images_are_held_out_in_every_version_of_dydist() -> None:
    """A study's runs of different versions are compared on the same images."""
    assert held_out(np.arange(40) % 4, 8, seed=0).tolist() == GOLDEN


@given(st.integers(0, 2**40), st.integers(0, 5), st.booleans())
def test_an_epoch_deals_all_images_but_those_held_out(seed: int, epoch: int, drop_last: bool) -> None:
    out = np.array([0, 7, 8, 50, 99])
    order = Order(seed=seed, size=100, batch_size=8, shards=2, drop_last=drop_last, held_out=out)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    dealt = np.concatenate([order.indices(step, shard) for step in steps for shard in range(2)])
    assert len(np.unique(dealt)) == len(dealt) == (88 if drop_last else 95)
    assert not set(dealt) & set(out)
    assert sum(order.batch_count(step) for step in range(order.steps_per_epoch)) == len(dealt)


def test_all_seeds_and_networks_share_the_split_and_train_on_the_rest() -> None:
    data = DataConfig(name="digits", validation=200)
    one, other = (open_splits(Config(seed=seed, data=data)) for seed in (0, 1))
    assert one.validation is not None
    assert other.validation is not None
    assert np.array_equal(one.validation.images, other.validation.images)
    assert one.evaluated is one.validation
    assert len(one.validation) == 200
    assert one.order.dealt == len(one.train) - 200
    rest, whole = open_split(data, "train"), open_dataset(data, "train")
    assert len(rest) + 200 == len(whole)
    held = {image.tobytes() for image in open_split(data, "validation").images}
    assert not held & ({image.tobytes() for image in rest.images} - held)  # the digits have twins
    assert np.array_equal(open_split(data, "validation").images, one.validation.images)
    assert open_splits(Config(data=DataConfig(name="digits"))).validation is None


def test_no_batch_is_left_where_too_many_are_held_out() -> None:
    config = Config(
        data=DataConfig(name="digits", validation=1400),
        train=TrainConfig(batch_size=64),
        parallel=ParallelConfig(shards=4),
    )
    with pytest.raises(UserError, match="more than the 37 training images"):
        open_splits(config)


GOLDEN = [0, 1, 4, 6, 9, 10, 19, 27]
