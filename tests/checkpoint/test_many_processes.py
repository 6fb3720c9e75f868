"""Checkpoints of many processes: shares, agreement, nodes with disks of their own, stragglers and dead writers."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.checkpoint import (
    Checkpointer,
    CheckpointError,
    LeaseHeldError,
    Storage,
    TrainingState,
    open_storage,
    survey,
)
from dydist.checkpoint._policy import Status, decide
from dydist.checkpoint._tensors import assign_shares
from dydist.storage.protocol import Chunks
from helpers.checkpoint_places import STORES, Place, place_on
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import Announcing, World


def all_succeeded(results: list[Any]) -> None:
    for rank, result in enumerate(results):
        assert not isinstance(result, BaseException), f"process {rank}: {result!r}"


def saving(world: World, *steps: int, final: bool = True, **options: Any) -> Callable[[int], None]:
    """A program that restores, saves some steps and closes."""

    def program(rank: int) -> None:
        checkpointer = world.checkpointer(rank, **options)
        try:
            checkpointer.restore()
            for step in steps:
                checkpointer.save(step, lambda step=step: state_at(step), accuracy=None, final=final)
        finally:
            checkpointer.close()

    return program


def restoring(world: World, expected: TrainingState, **options: Any) -> Callable[[int], None]:
    def program(rank: int) -> None:
        checkpointer = world.checkpointer(rank, **options)
        try:
            assert_same(checkpointer.restore(), expected)
        finally:
            checkpointer.close()

    return program


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_shares_are_whole_balanced_and_the_same_in_any_order(sizes: list[int], shares: int) -> None:
    named = {f"tensor{index}": size for index, size in enumerate(sizes)}
    share_of = assign_shares(named, shares)
    assert share_of == assign_shares(dict(reversed(named.items())), shares)
    assert share_of.keys() == named.keys()
    load = [sum(named[name] for name in named if share_of[name] == share) for share in range(shares)]
    assert max(load) - min(load) <= max(sizes, default=0)


@pytest.mark.parametrize("store", STORES)
def test_any_number_of_processes_reads_what_any_number_wrote(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = place_on(store, request)
    world = World(3, place, tmp_path / "stage", nodes=["a", "a", "b"])
    all_succeeded(world.run(saving(world, 4)))
    found = survey(open_storage(place.url, place.options))
    assert [(f.step, f.problem) for f in found] == [(4, None)]
    shutil.rmtree(tmp_path / "stage", ignore_errors=True)
    other = World(2, place, tmp_path / "stage")
    all_succeeded(other.run(restoring(other, state_at(4))))


def test_each_node_has_a_complete_copy(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = place_on("memory", request)
    world = World(4, place, tmp_path, nodes=["a", "b", "a", "b"])
    all_succeeded(world.run(saving(world, 7)))
    for node in ("a", "b"):
        stage = open_storage(str(next((tmp_path / node).iterdir())))
        assert [(f.step, f.problem) for f in survey(stage)] == [(7, None)]


@pytest.mark.long
def test_256_writers_commit_one_checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = place_on("memory", request)
    world = World(256, place, tmp_path, nodes=[f"node{rank // 8}" for rank in range(256)])
    weights = {f"layer{index}.weight": torch.full((16,), float(index)) for index in range(300)}

    def program(rank: int) -> None:
        checkpointer = world.checkpointer(rank)
        checkpointer.restore()
        state = TrainingState(step=1, model=weights)
        checkpointer.save(1, lambda: state, accuracy=None, final=True)
        checkpointer.close()

    all_succeeded(world.run(program))
    (found,) = survey(open_storage(place.url))
    assert found.problem is None
    assert found.manifest is not None
    assert len([name for name in found.manifest.files if name.startswith("model-")]) == 256
    assert_same(world_of_one(place, tmp_path / "reader").restore(), TrainingState(step=1, model=weights))


def world_of_one(place: Place, stage: Path) -> Checkpointer:
    return World(1, place, stage).checkpointer(0)


class Broken:
    """A store that fails, or waits, on chosen names: `on_write(name)` may raise or block."""

    def __init__(self, inner: Storage, on_write: Callable[[str], None]) -> None:
        self._inner = inner
        self._on_write = on_write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, name: str, chunks: Chunks) -> None:
        self._on_write(name)
        self._inner.write(name, chunks)


@pytest.mark.parametrize(
    ("name", "said"), [("model", "wrote nothing"), ("part", "is still writing")], ids=["dead", "straggler"]
)
def test_who_does_not_confirm_is_named(
    name: str, said: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_on("memory", request)
    world = World(3, place, tmp_path, nodes=["a", "b", "c"])
    place_itself, late, told = open_storage(place.url), [0.0], threading.Event()
    world.records = Announcing(told)

    def hang(file: str) -> None:
        """Process 2 hangs until the others have confirmed, the time is up, and that was told."""
        if f"/{name}-" not in file:
            return
        while sum("part-" in n for n in place_itself.files("step-000000001")) < 2:
            assert not told.wait(0.005), "failed before the others had confirmed"
        late[0] = 3600.0
        told.wait()
        raise PermissionError("the test is over")

    def program(rank: int) -> None:
        def open_at(url: str, options: Any) -> Storage:
            inner = open_storage(url, options)
            return Broken(inner, hang) if rank == 2 and "://" in url else inner

        checkpointer = world.checkpointer(rank, open_at=open_at, clock=lambda: time.monotonic() + late[0])
        try:
            checkpointer.restore()
            checkpointer.save(1, lambda: state_at(1), accuracy=None, final=True, deadline_s=600.0)
        finally:
            checkpointer.close()

    results = world.run(program)
    for result in results:
        assert isinstance(result, CheckpointError)
        assert f"process 2 (c), which {said}, did not confirm its share" in str(result)
        assert "complete local copy" in str(result)
        assert "on host a" in str(result)
    assert [f.problem for f in survey(open_storage(place.url))] == [
        "no MANIFEST.json: the save never finished"
    ]
    assert world.records[-1].error is not None


def test_a_copy_on_one_node_is_brought_to_all(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The newest state lies on node b's disk alone; the next start has it on both nodes."""
    place = place_on("memory", request)
    world = World(2, place, tmp_path, nodes=["a", "b"])
    all_succeeded(world.run(saving(world, 3, 5)))
    open_storage(place.url).delete_folder("step-000000005")
    shutil.rmtree(tmp_path / "a")
    all_succeeded(world.run(restoring(world, state_at(5))))
    assert survey(open_storage(place.url))[0].step == 5


def test_all_processes_are_refused_alike(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = place_on("memory", request)
    holder = world_of_one(place, tmp_path / "other")
    holder.restore()
    world = World(2, place, tmp_path)
    results = world.run(saving(world, 1))
    holder.close()
    assert [type(result) for result in results] == [LeaseHeldError, LeaseHeldError]


PHASES = ("queued", "writing", "staged", "uploading", "done", "failed", "cancelled")


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["one", "two", "three"]), st.sampled_from(PHASES)),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_no_process_waits_for_a_save_that_another_gave_up(phases: list[dict[str, str]], final: bool) -> None:
    """A save that every process goes on with waits nowhere; one that is given up has not been committed."""
    statuses = [Status(rank=rank, token=f"new{rank}", phases=named) for rank, named in enumerate(phases)]
    decision = decide(statuses, final=final)
    assert decision.attempt == "new0"
    for attempt in ("one", "two", "three"):
        seen = {named[attempt] for named in phases if attempt in named}
        if attempt in decision.cancel:
            assert seen - {"done"}, "a save that ended everywhere was given up"
        else:
            assert not seen & {"queued", "staged"}
