"""Waiting for a store, a lease or a last save: no collective is held open meanwhile, and signals are heeded."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from dydist.checkpoint._agreement import ROUND_S, Agreement
from dydist.checkpoint._context import RankGroup
from dydist.checkpoint._format import encode_json
from dydist.checkpoint._lease import LEASE, this_process
from dydist.errors import StopRequestedError, UserError
from dydist.process.stop import StopRequest
from dydist.storage.local import LocalStorage
from helpers.checkpoint_places import Place
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import World
from helpers.support import REPOSITORY, Run, train

ORDINARY = (("create", 1), ("read", 0), ("lease", 1))
"""The waits that the ordinary suite ends, by a signal to this process."""
PATIENCE_S = 5 * ROUND_S
"""What a collective waits at most; the work of these tests takes longer."""


class Held(LocalStorage):
    """A disk on which some operations of a kind wait until they are let go."""

    go = threading.Event()
    begun = threading.Event()
    operation = ""

    def _hold(self, operation: str) -> None:
        if operation == self.operation:
            self.begun.set()
            self.go.wait(600)

    def folders(self) -> list[str]:
        self._hold("folders")
        return super().folders()

    def create(self, name: str, data: bytes) -> None:
        self._hold("create")
        super().create(name, data)

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self._hold("publish")
        super().publish(working, folder, manifest)

    def read(self, name: str) -> Any:
        if name.endswith(".safetensors"):
            self._hold("read")
        return super().read(name)


class Dead(LocalStorage):
    """A place whose every operation fails as on a network that is down."""

    begun = threading.Event()

    def folders(self) -> list[str]:
        raise self._down()

    def create(self, name: str, data: bytes) -> None:
        raise self._down()

    def _down(self) -> ConnectionError:
        self.begun.set()
        return ConnectionError("the network is down")


def held(operation: str) -> type[Held]:
    """A kind of disk of its own for a test."""
    return type(
        "HeldDisk",
        (Held,),
        {"go": threading.Event(), "begun": threading.Event(), "operation": operation},
    )


def world_at(tmp_path: Path, size: int) -> World:
    return World(size, Place(str(tmp_path / "place"), {}), tmp_path / "stages", patience_s=PATIENCE_S)


@pytest.mark.parametrize(
    "operation",
    [pytest.param(each, marks=pytest.mark.long) for each in ("create", "folders", "read")] + ["publish"],
)
def test_no_collective_waits_for_as_long_as_a_store_does(operation: str, tmp_path: Path) -> None:
    disk = held(operation)
    before = world_at(tmp_path, 1).checkpointer(0)
    before.restore()
    before.save(3, lambda: state_at(3), accuracy=None, final=True)
    before.close()
    world = world_at(tmp_path, 2)

    def program(rank: int) -> None:
        checkpointer = world.checkpointer(rank, open_at=lambda at, options: disk(at))
        try:
            assert_same(checkpointer.restore(), state_at(3))
            checkpointer.save(6, lambda: state_at(6), accuracy=None, final=True)
        finally:
            checkpointer.close()

    threading.Thread(
        target=lambda: (disk.begun.wait(60), time.sleep(1.2 * PATIENCE_S), disk.go.set())
    ).start()
    assert world.run(program) == [None, None]


@pytest.mark.parametrize(
    ("why", "who"),
    [
        pytest.param(why, who, marks=() if (why, who) in ORDINARY else pytest.mark.long)
        for why in ("create", "folders", "read", "dead store", "lease")
        for who in (0, 1)
    ],
)
def test_a_signal_to_any_process_ends_every_wait_of_a_start(why: str, who: int, tmp_path: Path) -> None:
    disk: Any = Dead if why == "dead store" else held(why)
    disk.begun.clear()
    if why != "dead store":
        before = world_at(tmp_path, 1).checkpointer(0)
        before.restore()
        before.save(3, lambda: state_at(3), accuracy=None, final=True)
        before.close()
    lease = leave_lease(tmp_path / "place") if why == "lease" else None
    world = world_at(tmp_path, 2)
    signalled = threading.Event()

    def program(rank: int) -> None:
        checkpointer = world.checkpointer(
            rank, open_at=lambda at, options: disk(at), stop=lambda: rank == who and signalled.is_set()
        )
        try:
            checkpointer.restore()
        finally:
            checkpointer.close()

    def send() -> None:
        while not (disk.begun.is_set() or any("heartbeat" in note for note in world.notes)):
            time.sleep(0.01)
        signalled.set()

    threading.Thread(target=send).start()
    results = world.run(program)
    assert [type(result) for result in results] == [StopRequestedError] * 2
    disk_lease = tmp_path / "place" / LEASE
    if lease is not None:
        assert disk_lease.read_bytes() == lease  # not ours
    if hasattr(disk, "go"):
        disk.go.set()
        while disk_lease.exists() and lease is None:  # what still takes it, where the disk held that up
            time.sleep(0.01)


def leave_lease(place: Path) -> bytes:
    """The lease of a process of another host that is not to be seen any more."""
    me = this_process(run="other", job="", host="there", now=0.0)
    raw = encode_json(asdict(replace(me, machine="elsewhere", pid=1)))
    LocalStorage(place).write(LEASE, lambda: [raw])
    return raw


def test_errors_and_values_are_those_of_the_process_that_works() -> None:
    agreement = Agreement(RankGroup(), lambda text, *, level="info": None)
    assert agreement.on_rank0(lambda: 7) == 7

    def fail(error: BaseException) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    with pytest.raises(UserError, match="no such place"):
        agreement.on_rank0(fail(UserError("no such place")))
    assert agreement.all_succeed(fail(SystemExit("gone"))) == (None, "process 0: SystemExit: gone")


def flags(runs: Path, *more: object) -> list[object]:
    return [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", runs, "--run.name", "run"),
        *(
            "--model.width",
            "0.0625",
            "--train.epochs",
            "1",
            "--train.max_steps",
            "2",
            "--parallel.threads",
            "1",
        ),
        *("--optim.warmup_epochs", "0"),
        *more,
    ]


def wait_for_text(run: Run, text: str) -> None:
    until = time.monotonic() + 300
    while text not in run.text():
        assert time.monotonic() < until, run.text()
        assert any(process.is_alive() for process in run.processes), run.text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "ranks", [(1,), *(pytest.param(who, marks=pytest.mark.long) for who in ((0,), (0, 1)))]
)
def test_a_start_that_waits_for_a_lease_heeds_sigterm(ranks: tuple[int, ...], tmp_path: Path) -> None:
    lease = leave_lease(tmp_path / "run" / "checkpoints")
    run = Run(flags(tmp_path), 2, tmp_path / "log", DYDIST_EXIT_DIR=str(tmp_path / "exit"))
    wait_for_text(run, "for a heartbeat")
    began = time.monotonic()
    run.signal(signal.SIGTERM, *ranks)
    assert run.wait() == [75, 75], run.text()
    assert time.monotonic() - began < 45  # it would have waited 60 s
    assert run.text().count("before a step was begun; nothing is lost") == 1
    assert (tmp_path / "run" / "checkpoints" / LEASE).read_bytes() == lease
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"checkpoints"}
    assert json.loads((tmp_path / "exit" / "rank-1.json").read_text())["code"] == 75


@pytest.mark.long
def test_a_dead_lease_is_waited_for_longer_than_a_collective_may_take(tmp_path: Path) -> None:
    leave_lease(tmp_path / "run" / "checkpoints")
    text = train(flags(tmp_path, "--parallel.timeout_s", "20"), 2, tmp_path / "log")
    assert "waiting 60 s for a heartbeat" in text
    assert "done: step 2 of 2" in text


def test_a_start_that_waits_for_another_process_to_prepare_the_data_heeds_sigterm(tmp_path: Path) -> None:
    cache = tmp_path / "data" / ".dydist-cache"
    cache.mkdir(parents=True)
    with filelock.FileLock(cache / "cifar10.lock"):
        more = ("--data.name", "cifar10", "--data.root", tmp_path / "data")
        run = Run(flags(tmp_path, *more), 1, tmp_path / "log")
        wait_for_text(run, "waiting for another process to prepare cifar10")
        run.signal(signal.SIGTERM)
        assert run.wait(60) == [75], run.text()
    assert not (tmp_path / "run").exists()


def test_a_signal_where_nothing_can_be_lost_is_raised_once_and_remembered() -> None:
    with StopRequest() as stop:
        with pytest.raises(StopRequestedError), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.name == "SIGTERM"
        with pytest.raises(StopRequestedError), stop.at_once():
            raise AssertionError("it was asked for before")
