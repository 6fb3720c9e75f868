"""Seven servers by as many hands, beside the stores of the suite: what `Storage` promises, and two processes commit.

`bash tests/run.sh -m long tests/checkpoint/test_stores.py` asks those from npm and Debian too;
docs/notes/checkpoints.md has the result.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dydist.checkpoint import Keep, Retrying, open_storage, prune, survey, verify
from dydist.errors import UserError
from dydist.storage.remote import RemoteStorage
from helpers.checkpoint_places import FOREIGN_SERVERS, OTHER_SERVERS, STORES, Place, place_on
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import World

# adlfs hands aiohttp the parts of an upload as bytes; their size is `BLOCK`'s
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

SERVERS = [
    *(pytest.param(name, marks=pytest.mark.long if name == "asyncssh" else ()) for name in OTHER_SERVERS),
    *(pytest.param(name, marks=[pytest.mark.long, pytest.mark.slow]) for name in FOREIGN_SERVERS),
]
ATOMIC_CREATE = {"asyncssh", "webdav", "azurite"}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(server: str, request: pytest.FixtureRequest) -> Place:
    return place_on(server, request)


def patient(place: Place) -> Retrying:
    return Retrying(
        open_storage(place.url, place.options),
        deadline=time.monotonic() + 60,
        clock=time.monotonic,
        cancelled=threading.Event(),
    )


def read(storage: Retrying, name: str) -> bytes:
    return b"".join(storage.read(name))


def test_an_empty_place(place: Place) -> None:
    storage = patient(place)
    assert storage.folders() == []
    assert storage.files("step-000000001") == {}
    assert storage.size("LEASE.json") is None
    assert storage.modified("step-000000001") is None
    for name in ("LEASE.json", "step-000000001/model.safetensors"):
        with pytest.raises(FileNotFoundError):
            read(storage, name)
        storage.delete(name)
    storage.delete_folder("step-000000001")


def test_one_process_sees_at_once_what_another_does(place: Place) -> None:
    """Listings and files are kept nowhere in between: each look asks the server."""
    writer, reader = patient(place), patient(place)
    assert reader.files("folder") == {}
    for count in range(1, 4):
        writer.write(f"folder/file{count}", lambda count=count: [b"x" * count])  # type: ignore[misc]
        assert reader.files("folder") == {f"file{i}": i for i in range(1, count + 1)}
        assert reader.folders() == ["folder"]
    writer.write("folder/file1", lambda: [b"longer"])
    assert reader.size("folder/file1") == 6
    assert read(reader, "folder/file1") == b"longer"
    assert reader.modified("folder") is not None
    assert abs((reader.modified("folder") or 0) - time.time()) < 300
    writer.delete("folder/file2")
    assert sorted(reader.files("folder")) == ["file1", "file3"]
    writer.delete_folder("folder")
    assert reader.files("folder") == {}
    assert reader.folders() == []


def test_large_files_go_in_parts(place: Place) -> None:
    storage = patient(place)
    block = bytes(range(256)) * 4096
    storage.write("folder/large", lambda: [block] * 35)
    assert storage.size("folder/large") == 35 << 20
    assert read(storage, "folder/large") == block * 35
    chunks = storage.read("folder/large")
    next(chunks)
    del chunks  # a reader that stops before the end
    assert storage.size("folder/large") == 35 << 20


def test_a_write_that_fails_leaves_the_old_file(place: Place) -> None:
    storage = patient(place)
    storage.write("folder/file", lambda: [b"old"])

    def cut() -> object:
        yield b"x" * (20 << 20)
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        storage.write("folder/file", cut)  # type: ignore[arg-type]
    assert storage.files("folder") == {"file": 3}
    assert read(storage, "folder/file") == b"old"


def test_create_refuses_a_name_that_is_taken(place: Place, server: str) -> None:
    storage = patient(place)
    storage.create("LEASE.json", b"mine")
    with pytest.raises(FileExistsError):
        patient(place).create("LEASE.json", b"yours")
    assert read(storage, "LEASE.json") == b"mine"
    storage.delete("LEASE.json")
    storage.create("LEASE.json", b"again")
    inner = storage.inner
    assert isinstance(inner, RemoteStorage)
    assert inner._refuses_taken is (server in ATOMIC_CREATE)
    assert storage.folders() == []


@pytest.mark.parametrize("server", [*STORES, *SERVERS])
def test_a_folder_that_has_a_files_name(place: Place, server: str, tmp_path: Path) -> None:
    """Whether a store has folders or names with a slash: it is no file, in no file's way, and nothing in it is lost."""
    storage = patient(place)
    lease, manifest = "LEASE.json", "step-000000001/MANIFEST.json"
    for name in (lease, manifest):
        storage.write(f"{name}/x", lambda: [b"foreign"])
        assert storage.size(name) is None
        with pytest.raises(FileNotFoundError):
            read(storage, name)
        storage.delete(name)
    assert [item.problem for item in survey(storage)] == ["no MANIFEST.json: the save never finished"]
    world = World(1, place, tmp_path / "stage")
    checkpointer = world.checkpointer(0)
    assert checkpointer.restore() is None
    assert b"world" in read(storage, lease)
    checkpointer.save(1, lambda: state_at(1), accuracy=None, final=True)
    checkpointer.close()
    (found,) = survey(storage)
    verify(storage, found)
    aside = [name for name in storage.folders() if name.endswith(".not-a-file")]
    if "LEASE.json" in storage.folders():
        assert (read(storage, f"{lease}/x"), aside) == (b"foreign", [])
    else:
        assert read(storage, f"{aside[0]}/x") == b"foreign"


def test_of_many_that_create_at_once_one_wins(place: Place) -> None:
    storages = [patient(place) for _ in range(4)]
    for storage in storages:
        storage.size("LEASE.json")  # connected

    def create(number: int) -> bool:
        try:
            storages[number].create("LEASE.json", b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(create, range(4)))
    assert won.count(True) == 1
    assert read(storages[0], "LEASE.json") == b"%d" % won.index(True)


def test_two_processes_commit_and_retention_leaves_nothing(place: Place, tmp_path: Path) -> None:
    world = World(2, place, tmp_path / "stage", nodes=["a", "b"])

    def process(rank: int) -> None:
        checkpointer = world.checkpointer(rank, keep=1)
        checkpointer.restore()
        for step in (1, 2, 3):
            checkpointer.save(step, lambda step=step: state_at(step), accuracy=None, final=True)  # type: ignore[misc]
        checkpointer.close()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(process, range(2)))
    assert [(record.step, record.error) for record in world.records] == [(1, None), (2, None), (3, None)]
    storage = patient(place)
    prune(storage, Keep(keep=1, keep_best=False), now=time.time())
    found = survey(storage)
    assert [item.step for item in found] == [3]
    verify(storage, found[0])
    assert storage.folders() == [found[0].folder]
    assert_same(World(1, place, tmp_path / "stage2").checkpointer(0).restore(), state_at(3))


def test_a_missing_bucket_is_told(place: Place, server: str) -> None:
    if server in OTHER_SERVERS:
        pytest.skip("it has folders, which are made")
    protocol = place.url.partition("://")[0]
    with pytest.raises(UserError, match="there is no bucket 'nowhere'"):
        patient(Place(f"{protocol}://nowhere/place", place.options)).folders()


def test_a_refused_login_is_permanent(place: Place, server: str) -> None:
    """C4: a wrong key of Azure was tried again for a minute."""
    wrong = {
        "ftp": {"password": "wrong"},
        "azurite": {"connection_string": str(place.options.get("connection_string")).replace("Eby8", "Aby8")},
        "s3rver": {"key": "WRONG", "secret": "WRONG"},
        "swift": {"secret": "wrong"},
    }.get(server)
    if wrong is None:
        pytest.skip("nobody has to log in, or a key is refused by asyncssh's client before")
    from dydist.checkpoint import explain, is_refused, is_transient

    storage = patient(Place(place.url, {**place.options, **wrong}))
    with pytest.raises(Exception) as caught:
        storage.create("LEASE.json", b"mine")
    assert is_refused(caught.value)
    assert not is_transient(caught.value)
    assert "\n" not in explain(caught.value)
    assert len(explain(caught.value)) < 500
