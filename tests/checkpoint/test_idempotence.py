"""An operation that failed after it took effect is tried again, and the second try succeeds and changes nothing."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dydist.checkpoint import Retrying, Storage, open_storage
from dydist.storage import retry as _retry
from dydist.storage.local import LocalStorage
from helpers.checkpoint_places import Place
from helpers.faults import SYSTEM_CALLS, Failing, Plan, failing_disk, once

FOLDER = "step-000000001"
Contents = dict[str, bytes]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "FIRST_WAIT_S", 0.001)


@dataclass(frozen=True)
class Case:
    """An operation, what is in the place before it, and what has to be there afterwards."""

    before: Contents
    work: Callable[[Storage], None]
    after: Contents


def publish(storage: Storage, attempt: str = "bbb222") -> None:
    storage.publish(storage.working_folder(FOLDER, attempt), FOLDER, f"manifest of {attempt}".encode())


OLD = {f"{FOLDER}/model-aaa111": b"old", f"{FOLDER}/MANIFEST.json": b"manifest of aaa111"}
WORKING = {"WORKING/model-bbb222": b"new", "WORKING/state.json": b"state"}
PUBLISHED = {
    f"{FOLDER}/model-bbb222": b"new",
    f"{FOLDER}/state.json": b"state",
    f"{FOLDER}/MANIFEST.json": b"manifest of bbb222",
}
CASES = {
    "write": Case({}, lambda s: s.write("folder/file", lambda: [b"a", b"b"]), {"folder/file": b"ab"}),
    "replace": Case({"top": b"old"}, lambda s: s.write("top", lambda: [b"new"]), {"top": b"new"}),
    "create": Case({}, lambda s: s.create("LEASE.json", b"mine"), {"LEASE.json": b"mine"}),
    "publish": Case(WORKING, publish, PUBLISHED),
    "publish over": Case({**OLD, **WORKING}, publish, PUBLISHED),
    "delete": Case({"folder/a": b"a", "folder/b": b"b"}, lambda s: s.delete("folder/a"), {"folder/b": b"b"}),
    "delete_folder": Case({**OLD, "top": b"x"}, lambda s: s.delete_folder(FOLDER), {"top": b"x"}),
}


def fill(storage: Storage, contents: Contents) -> None:
    working = storage.working_folder(FOLDER, "bbb222")
    for name, data in contents.items():
        storage.write(name.replace("WORKING", working), lambda data=data: [data])  # type: ignore[misc]


def contents(storage: Storage) -> Contents:
    """All files but those of a replaced checkpoint that could not be removed: they are swept later."""
    folders = [folder for folder in storage.folders() if not folder.endswith(".replaced")]
    names = [f"{folder}/{name}" for folder in folders for name in storage.files(folder)]
    names += [name for name in ("top", "LEASE.json") if storage.size(name) is not None]
    return {name: b"".join(storage.read(name)) for name in names}


def patient(storage: Storage) -> Retrying:
    return Retrying(
        storage, deadline=time.monotonic() + 60, clock=time.monotonic, cancelled=threading.Event()
    )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_an_operation_that_failed_is_tried_again(place: Place, name: str, when: str) -> None:
    """On every store: the first operation of each kind fails, then the second."""
    case = CASES[name]
    for number in range(2):
        storage = open_storage(f"{place.url}/{number}", place.options)
        fill(storage, case.before)
        case.work(patient(Failing(storage, once(number, when))))  # type: ignore[arg-type]
        # On a store without renames the files that were replaced stay, without meaning, until they are swept.
        strays = set(OLD) - set(case.after) if storage.working_folder(FOLDER, "a") == FOLDER else set()
        left = {path: data for path, data in contents(storage).items() if path not in strays}
        assert left == case.after


def calls_of(case: Case, root: Path) -> int:
    """How many system calls an operation makes on a disk."""
    made: list[str] = []

    def count(name: str) -> None:
        made.append(name)

    fill(LocalStorage(root), case.before)
    with failing_disk(root, count):
        case.work(LocalStorage(root))
    assert made  # else the loops over these would test nothing
    assert set(made) <= set(SYSTEM_CALLS)
    return len(made)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_each_system_call_of_an_operation_may_fail(tmp_path: Path, name: str, when: str) -> None:
    """On a disk, by EIO: the case of a published checkpoint whose folder could not be flushed is one of them."""
    case = CASES[name]
    for number in range(calls_of(case, tmp_path / "counted")):
        storage = LocalStorage(tmp_path / f"{number}")
        fill(storage, case.before)
        with failing_disk(storage.root, once(number, when)):
            case.work(patient(storage))
        assert contents(storage) == case.after, f"system call {number}"


@pytest.mark.parametrize("name", CASES)
def test_two_system_calls_in_turn_may_fail(tmp_path: Path, name: str) -> None:
    """What the second try does may fail as well."""
    case = CASES[name]
    calls = calls_of(case, tmp_path / "counted")
    for first, second in itertools.product(range(calls), range(1, calls + 1)):
        storage = LocalStorage(tmp_path / f"{first}-{second}")
        fill(storage, case.before)
        plan = twice(first, first + second)
        with failing_disk(storage.root, plan):
            case.work(patient(storage))
        assert contents(storage) == case.after, f"system calls {first} and {second}"
        shutil.rmtree(storage.root)


def twice(*numbers: int) -> Plan:
    plans = [once(number, "after") for number in numbers]

    def plan(name: str) -> str | None:
        return next((when for when in [plan(name) for plan in plans] if when), None)

    return plan


def test_publish_makes_no_checkpoint_of_files_that_are_gone(place: Place) -> None:
    """Someone swept the save's files: an empty folder with a manifest must not replace what is there."""
    storage = open_storage(place.url, place.options)
    if storage.working_folder(FOLDER, "bbb222") == FOLDER:
        pytest.skip("a save has no folder of its own on this store; `commit` compares sizes")
    fill(storage, OLD)
    with pytest.raises(FileNotFoundError):
        publish(patient(storage))
    assert contents(storage) == OLD


def test_a_read_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """At every byte, also within a chunk of the second reading: no byte is missing or there twice."""
    data = bytes(range(9))

    class Breaking(LocalStorage):
        readings = 0

        def read(self, name: str) -> Iterator[bytes]:
            self.readings += 1
            if self.readings > 1:
                yield from (data[:4], data[4:])
                return
            for byte in data[:at]:
                yield bytes([byte])
            raise ConnectionResetError("reset")

    for at in range(len(data) + 1):
        assert b"".join(patient(Breaking(tmp_path)).read("file")) == data, at


def test_a_folder_that_is_deleted_in_part_is_no_checkpoint(tmp_path: Path) -> None:
    """Cut off at any system call, the manifest is gone before any other file."""
    files = {f"{FOLDER}/{name}": b"x" for name in (*(f"model-{n}" for n in range(20)), "MANIFEST.json")}
    case = Case(files, lambda storage: storage.delete_folder(FOLDER), {})
    for number in range(calls_of(case, tmp_path / "counted")):
        storage = LocalStorage(tmp_path / f"{number}")
        fill(storage, files)
        with failing_disk(storage.root, once(number, "before")), contextlib.suppress(OSError):
            case.work(storage)
        left = contents(storage)
        assert f"{FOLDER}/MANIFEST.json" not in left or left == files, f"system call {number}"


def test_a_process_killed_between_two_renames_loses_neither_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that is replaced is moved aside first; what was to replace it is whole by then."""
    storage = LocalStorage(tmp_path)
    fill(storage, {**OLD, **WORKING})
    working = storage.working_folder(FOLDER, "bbb222")
    storage.write(f"{working}/MANIFEST.json", lambda: [b"manifest of bbb222"])
    (tmp_path / FOLDER).rename(tmp_path / working.replace(".partial", ".replaced"))
    assert FOLDER in storage.folders()
    assert {n: d for n, d in contents(storage).items() if n.startswith(FOLDER)} == PUBLISHED


def test_what_was_replaced_comes_back_where_the_new_one_cannot_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    fill(storage, {**OLD, **WORKING})
    rename, refused = os.rename, []

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            refused.append(target)
            raise PermissionError(errno.EACCES, "refused")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        publish(storage)
    assert refused
    assert {n: d for n, d in contents(storage).items() if n.startswith(FOLDER)} == OLD


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES])
@pytest.mark.parametrize("fails", [False, True])
def test_without_hard_links_a_name_is_still_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_links)
    storage = LocalStorage(tmp_path)
    for number in range(calls_of(CASES["create"], tmp_path / "counted") + 1) if fails else [0]:
        turn = once(number, "after")

        def plan(name: str, turn: Plan = turn) -> str | None:
            # An open that fails after it made the empty file leaves it behind: a torn lease, taken after a time-out.
            return turn(name) if fails and name != "open" else None

        with failing_disk(tmp_path, plan):
            patient(storage).create(f"lease-{number}", b"mine")
        with pytest.raises(FileExistsError):
            storage.create(f"lease-{number}", b"yours")
        assert b"".join(storage.read(f"lease-{number}")) == b"mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_many_creators_without_hard_links_and_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    won, barrier = [], threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait(60)
        try:
            LocalStorage(tmp_path).create("LEASE.json", b"%d" % number)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "LEASE.json").read_bytes() == b"%d" % won[0]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_fsync(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", no_fsync)
    storage = LocalStorage(tmp_path)
    fill(storage, WORKING)
    publish(storage)
    assert contents(storage) == PUBLISHED


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("kept")


@pytest.mark.parametrize("make", [make_folder, os.mkfifo], ids=["folder", "pipe"])
def test_what_has_a_files_name_and_is_none_is_moved_aside(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    storage = LocalStorage(tmp_path)
    for name, work in (
        ("LEASE.json", lambda: storage.create("LEASE.json", b"mine")),
        ("PLACE.json", lambda: storage.write("PLACE.json", lambda: [b"mine"])),
    ):
        make(tmp_path / name)
        assert storage.size(name) is None
        with pytest.raises(FileNotFoundError):
            b"".join(storage.read(name))
        storage.delete(name) if make is make_folder else None
        work()
        assert b"".join(storage.read(name)) == b"mine"
    assert len(list(tmp_path.glob(".*.not-a-file"))) == 2


def test_a_file_where_the_place_should_be_is_told(tmp_path: Path) -> None:
    """Not FileExistsError, which would be taken for a lease that somebody holds."""
    (tmp_path / "file").write_text("in the way")
    storage = LocalStorage(tmp_path / "file")
    for work in (
        lambda: storage.create("LEASE.json", b"mine"),
        lambda: storage.write("LEASE.json", lambda: [b"x"]),
    ):
        with pytest.raises(NotADirectoryError):
            work()
