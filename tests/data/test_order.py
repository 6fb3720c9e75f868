"""The order: every image exactly once an epoch, on any number of processes, from any step."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.data.order import Order, epoch_permutation, rank_shards, shard_indices
from dydist.errors import UserError

shapes = st.tuples(st.integers(1, 64), st.integers(1, 24)).flatmap(
    lambda pair: st.tuples(
        st.integers(pair[0] * pair[1], 4_000), st.just(pair[0] * pair[1]), st.just(pair[0])
    )
)
"""(data set size, batch size, shards) with at least one full batch."""


@given(shapes, st.integers(0, 2**40), st.integers(0, 50), st.booleans())
def test_an_epoch_deals_every_image_exactly_once(
    shape: tuple[int, int, int], seed: int, epoch: int, drop_last: bool
) -> None:
    size, batch, shards = shape
    order = Order(seed=seed, size=size, batch_size=batch, shards=shards, drop_last=drop_last)
    first = epoch * order.steps_per_epoch
    dealt = np.concatenate(
        [
            order.indices(first + step, shard)
            for step in range(order.steps_per_epoch)
            for shard in range(shards)
        ]
    )
    assert len(np.unique(dealt)) == len(dealt) == (size // batch * batch if drop_last else size)
    assert dealt.min() >= 0
    assert dealt.max() < size


@given(st.integers(1, 4096), st.integers(0, 5000))
def test_ranks_share_the_shards_in_order_and_evenly(world_size: int, extra: int) -> None:
    shards = world_size + extra
    owned = [rank_shards(rank, world_size, shards) for rank in range(world_size)]
    assert [shard for part in owned for shard in part] == list(range(shards))
    assert {len(part) for part in owned} <= {shards // world_size, -(-shards // world_size)}
    assert sorted(map(len, owned), reverse=True) == list(map(len, owned))


@given(st.integers(1, 4096), st.integers(0, 10**6), st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_step_is_the_same_batch_on_any_number_of_processes(world_size: int, step: int, seed: int) -> None:
    shards = 4096
    order = Order(seed=seed, size=100_003, batch_size=2 * shards, shards=shards)
    whole = epoch_permutation(seed, step // order.steps_per_epoch, 100_003)
    offset = step % order.steps_per_epoch * 2 * shards
    for rank in {0, world_size // 2, world_size - 1}:
        for shard in (rank_shards(rank, world_size, shards).start, rank_shards(rank, world_size, shards)[-1]):
            expected = whole[offset + 2 * shard : offset + 2 * shard + 2]
            assert np.array_equal(order.indices(step, shard), expected)


@given(st.integers(20, 5_000), st.integers(0, 2**40), st.integers(0, 1000))
def test_no_two_epochs_and_no_two_seeds_are_alike(size: int, seed: int, epoch: int) -> None:
    here = epoch_permutation(seed, epoch, size)
    assert not np.array_equal(here, epoch_permutation(seed, epoch + 1, size))
    assert not np.array_equal(here, epoch_permutation(seed + 1, epoch, size))


@given(st.integers(1, 400), st.integers(1, 40))
def test_the_last_batch_is_cut_into_shards_that_differ_by_one_at_most(rest: int, shards: int) -> None:
    batch = shards * 20
    sizes = [
        len(shard_indices(0, 0, 1, shard, size=batch + min(rest, batch), batch_size=batch, shards=shards))
        for shard in range(shards)
    ]
    assert sum(sizes) == min(rest, batch)
    assert max(sizes) - min(sizes) <= 1


def test_past_the_end_of_an_epoch_there_is_nothing() -> None:
    assert len(shard_indices(0, 0, 10, 0, size=100, batch_size=10, shards=2)) == 0


def test_jumping_to_a_late_step_costs_what_an_early_one_does() -> None:
    order = Order(seed=1, size=50_000, batch_size=128, shards=8)
    order.indices(10**7, 0)
    began = time.perf_counter()
    for step in range(10**7, 10**7 + 200):
        order.indices(step, 3)
    assert (time.perf_counter() - began) / 200 < 0.002


def test_the_permutation_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_permutation(0, 0, 10)[0] = 1


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size: 64 is more than the 63 training images"):
        Order(seed=0, size=63, batch_size=64, shards=8)
    with pytest.raises(UserError, match="no multiple"):
        Order(seed=0, size=63, batch_size=30, shards=8)


def test_todays_order_stays_as_it_is() -> None:
    """A change here breaks every run that is resumed across it."""
    assert shard_indices(0, 0, 0, 0, size=1000, batch_size=8, shards=2).tolist() == GOLDEN


GOLDEN = [629, 567, 880, 951]
