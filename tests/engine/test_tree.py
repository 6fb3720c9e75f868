"""The tree of sums: one bracketing, whoever holds what."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.data.order import rank_shards
from dydist.engine.tree import PartialSums, ReductionPlan, split, subtrees


def bracketed(low: int, high: int) -> str:
    """The tree written out, straight from its definition."""
    if high - low == 1:
        return str(low)
    middle = split(low, high)
    return f"({bracketed(low, middle)}+{bracketed(middle, high)})"


def join(left: str, right: str) -> str:
    return f"({left}+{right})"


def test_eight_shards_are_summed_pair_by_pair() -> None:
    assert bracketed(0, 8) == "(((0+1)+(2+3))+((4+5)+(6+7)))"
    assert bracketed(0, 6) == "(((0+1)+(2+3))+(4+5))"


@given(st.integers(1, 300).flatmap(lambda shards: st.tuples(st.just(shards), st.integers(1, shards))))
def test_every_world_size_brackets_alike(sizes: tuple[int, int]) -> None:
    shards, world_size = sizes
    plan = ReductionPlan.make(shards, world_size)
    parts: list[str] = []
    for rank in range(world_size):
        mine = rank_shards(rank, world_size, shards)
        sums: PartialSums[str] = PartialSums(shards, mine.start, mine.stop, join)
        for shard in mine:
            sums.push(str(shard))
        parts += sums.results()
    assert plan.combine(parts, join) == bracketed(0, shards)


@given(st.integers(2, 300).flatmap(lambda shards: st.tuples(st.just(shards), st.integers(1, shards))))
def test_siblings_may_come_already_added(sizes: tuple[int, int]) -> None:
    shards, world_size = sizes
    parts: list[str] = []
    for rank in range(world_size):
        mine = rank_shards(rank, world_size, shards)
        sums: PartialSums[str] = PartialSums(shards, mine.start, mine.stop, join)
        shard = mine.start
        while shard < mine.stop:
            width = 2 if shard % 2 == 0 and shard + 1 in mine else 1
            sums.push(bracketed(shard, shard + width), width)
            shard += width
        parts += sums.results()
    assert ReductionPlan.make(shards, world_size).combine(parts, join) == bracketed(0, shards)


@given(st.integers(1, 1024))
def test_few_partial_sums_are_held(shards: int) -> None:
    sums: PartialSums[int] = PartialSums(shards, 0, shards, lambda a, b: a + b)
    for shard in range(shards):
        sums.push(shard)
        assert len(sums._held) <= max(1, (shards - 1).bit_length())
    assert sums.results() == [shards * (shards - 1) // 2]


def test_a_missing_shard_is_noticed() -> None:
    sums: PartialSums[int] = PartialSums(4, 0, 4, lambda a, b: a + b)
    sums.push(1)
    with pytest.raises(AssertionError, match="missing"):
        sums.results()
    with pytest.raises(ValueError, match="shorter"):
        ReductionPlan.make(4, 2).combine(["0+1"], join)


def test_three_processes_and_eight_shards() -> None:
    assert ReductionPlan.make(8, 3).held == (((0, 2), (2, 3)), ((3, 4), (4, 6)), ((6, 8),))


def test_a_thousand_ranks_are_planned_in_under_a_second_and_send_at_most_twice_the_gradient() -> None:
    began = time.perf_counter()
    plan = ReductionPlan.make(8192, 1024)
    assert time.perf_counter() - began < 1
    assert max(plan.sent(rank) for rank in range(1024)) <= 2
    assert max(map(len, plan.held)) == 1


@given(st.integers(0, 10).flatmap(lambda power: st.tuples(st.just(2**power), st.integers(1, 8))))
def test_powers_of_two_have_the_traffic_of_a_ring(sizes: tuple[int, int]) -> None:
    world_size, factor = sizes
    shards = world_size * 2 ** (factor - 1)
    plan = ReductionPlan.make(shards, world_size)
    assert {plan.sent(rank) for rank in range(world_size)} == {2 * (world_size - 1) / world_size}


class FakeGroup:
    """Processes that are entries of a list: all_to_all and all_gather on arrays."""

    def __init__(self, vectors: list[list[np.ndarray]], plan: ReductionPlan) -> None:
        self.vectors, self.plan = vectors, plan
        self.sent = [0] * len(vectors)

    def reduce(self) -> np.ndarray:
        size = len(self.vectors)
        chunks = [[np.array_split(part, size) for part in parts] for parts in self.vectors]
        finished = []
        for owner in range(size):
            received = [chunks[rank][i][owner] for rank in range(size) for i in range(len(chunks[rank]))]
            for rank in range(size):
                if rank != owner:
                    self.sent[rank] += sum(part[owner].size for part in chunks[rank])
            finished.append(self.plan.combine(received, np.add))
            self.sent[owner] += finished[-1].size * (size - 1)
        return np.concatenate(finished)


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_float_sums_are_equal_to_the_bit_on_all_world_sizes(shards: int, seed: int) -> None:
    leaves = np.random.default_rng(seed).normal(size=(shards, 37)).astype(np.float32) * 10.0 ** np.arange(37)
    results = []
    for world_size in range(1, shards + 1):
        plan = ReductionPlan.make(shards, world_size)
        vectors = []
        for rank in range(world_size):
            mine = rank_shards(rank, world_size, shards)
            sums: PartialSums[np.ndarray] = PartialSums(shards, mine.start, mine.stop, np.add)
            for shard in mine:
                sums.push(leaves[shard])
            vectors.append(sums.results())
        group = FakeGroup(vectors, plan)
        results.append(group.reduce().tobytes())
        for rank in range(world_size):
            assert group.sent[rank] == pytest.approx(
                plan.sent(rank) * 37, abs=2 * len(plan.held[rank]) + world_size
            )
    assert len(set(results)) == 1


def test_subtrees_of_nothing() -> None:
    assert [subtrees(shard, shard, 8) for shard in range(9)] == [[]] * 9
