"""Random schedules of failures before and after operations take effect: nothing committed is lost, the end is right.

Each schedule is a run in several starts, on a disk whose system calls fail with EIO, or on an S3 server that refuses
requests and whose answers get lost. All is checked on the same store without failures.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dydist.checkpoint import CheckpointError, Storage, load, open_storage, survey, verify
from dydist.storage import retry as _retry
from helpers.checkpoint_places import Place
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import World
from helpers.faults import Plan, at_random, failing_disk
from helpers.faulty_proxy import faulty_proxy

STEPS = 8
STARTS = 12
SHARE = 0.08


def seeds(few: int) -> list[Any]:
    """200 schedules, of which the ordinary suite runs the first few."""
    return [*range(few), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(few, 200))]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(_retry, "LONGEST_WAIT_S", 0.05)


def start(world: World, dice: random.Random) -> None:
    """One start: goes on, saves a few steps, some in the background; failures of single saves are a run's life."""

    def process(rank: int) -> None:
        checkpointer = world.checkpointer(rank, keep=2, job="the-job", deadline_s=60.0, lease_timeout_s=1.0)
        try:
            state = checkpointer.restore()
            step = 0 if state is None else state.step
            if state is not None:
                assert_same(state, state_at(step))
            for _ in range(saves):
                if step < STEPS:
                    step += 1
                    now = step
                    with contextlib.suppress(CheckpointError):
                        checkpointer.save(
                            step,
                            lambda now=now: state_at(now),
                            accuracy=None,
                            final=now % 2 == 0 or now == STEPS,
                        )
        finally:
            checkpointer.close()

    saves = dice.randint(1, 4)
    for result in world.run(process):
        if isinstance(result, BaseException) and not isinstance(result, CheckpointError | OSError):
            raise result


def check(storage: Storage, committed: set[int]) -> int:
    """Every checkpoint that claims to be one is whole and right; the newest is not older than what was committed."""
    whole = [found for found in survey(storage) if found.problem is None]
    for found in whole:
        verify(storage, found)
        assert_same(load(storage, found), state_at(found.step))
    newest = whole[0].step if whole else 0
    assert newest >= max(committed, default=0)
    assert {step for step in committed if step >= newest} <= {found.step for found in whole}
    return newest


def run_schedule(place: Place, failing: Any, stages: Path, seed: int) -> None:
    dice, committed = random.Random(seed), set[int]()
    storage = open_storage(place.url, place.options)
    for number in range(STARTS):
        world = World(dice.choice((1, 1, 2)), place, stages)
        with failing(at_random(seed * STARTS + number, SHARE)):
            start(world, dice)
        committed |= {record.step for record in world.records if record.error is None}
        if check(storage, committed) == STEPS:
            return
    world = World(1, place, stages)  # the store has recovered
    while check(storage, committed) < STEPS:
        start(world, dice)


@pytest.mark.parametrize("seed", seeds(4))
def test_on_a_disk(tmp_path: Path, seed: int) -> None:
    def failing(plan: Plan) -> AbstractContextManager[None]:
        return failing_disk(tmp_path / "place", plan)

    run_schedule(Place(str(tmp_path / "place")), failing, tmp_path / "stages", seed)


@pytest.mark.parametrize("seed", seeds(1))
def test_on_s3(tmp_path: Path, s3_server: dict[str, Any], seed: int) -> None:
    with faulty_proxy(s3_server["endpoint_url"]) as proxy:
        place = Place(
            f"s3://bucket/{tmp_path.name}-{seed}/place", {**s3_server, "endpoint_url": proxy.endpoint}
        )

        @contextlib.contextmanager
        def failing(plan: Plan) -> Iterator[None]:
            proxy.plan = plan
            try:
                yield
            finally:
                proxy.plan = lambda method: None

        run_schedule(place, failing, tmp_path / "stages", seed)
        assert proxy.seen["before"] + proxy.seen["after"] > 0
