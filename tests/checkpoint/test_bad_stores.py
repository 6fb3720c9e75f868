"""Stores that make trouble: training never stops for it, memory stays bounded, every outcome is told."""

from __future__ import annotations

import contextlib
import errno
import math
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dydist.checkpoint import (
    Checkpointer,
    CheckpointError,
    Retrying,
    Storage,
    TrainingState,
    open_storage,
    redact,
    scrub,
    survey,
    verify,
)
from dydist.errors import UserError
from dydist.storage.protocol import Chunks
from dydist.storage.transient import is_transient
from helpers.checkpoint_places import Place, place_on
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import Announcing, World


class Troubled:
    """A store under a plan of trouble: `trouble(operation, name)` may raise, wait, or do nothing."""

    def __init__(self, inner: Storage, trouble: Callable[[str, str], None], *, half: bool = False) -> None:
        self._inner = inner
        self._trouble = trouble
        self._half = half

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, name: str, chunks: Chunks) -> None:
        self._trouble("write", name)
        if self._half and name.endswith("safetensors"):
            self._half = False
            whole = b"".join(chunks())
            self._inner.write(name, lambda: [whole[: len(whole) // 2]])  # answers as if all were well
            return
        self._inner.write(name, chunks)

    def read(self, name: str) -> Iterator[bytes]:
        for chunk in self._inner.read(name):
            self._trouble("read", name)
            yield chunk

    def files(self, folder: str) -> dict[str, int]:
        self._trouble("list", folder)
        listed = list(self._inner.files(folder).items())
        random.Random(len(listed)).shuffle(listed)
        return dict(listed)

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self._trouble("publish", folder)
        self._inner.publish(working, folder, manifest)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    return place_on("memory", request)


@pytest.fixture
def world(place: Place, tmp_path: Path) -> World:
    return World(1, place, tmp_path / "stage")


def troubled(
    world: World, trouble: Callable[[str, str], None], half: bool = False, **config: Any
) -> Checkpointer:
    def open_at(url: str, options: Any) -> Storage:
        inner = open_storage(url, options)
        return Troubled(inner, trouble, half=half) if "://" in url else inner  # type: ignore[return-value]

    return world.checkpointer(0, open_at=open_at, **config)


def save(checkpointer: Checkpointer, step: int, **options: Any) -> None:
    checkpointer.save(step, lambda: state_at(step), accuracy=None, **options)


def now_and_then(*errors: Exception) -> Callable[[str, str], None]:
    """Every third operation fails, each time with the next of `errors`."""
    count = [0]

    def trouble(operation: str, name: str) -> None:
        count[0] += 1
        if count[0] % 3 == 0:
            raise errors[count[0] // 3 % len(errors)]

    return trouble


def test_what_passes_is_tried_again(world: World, place: Place) -> None:
    """Time-outs, 503s, throttling and dropped connections cost time, nothing else."""
    trouble = now_and_then(
        TimeoutError("timed out"),
        OSError(errno.EBUSY, "SlowDown: reduce your request rate"),
        ConnectionResetError("reset"),
        OSError(errno.EREMOTEIO, "InternalError"),
    )
    checkpointer = troubled(world, trouble)
    checkpointer.restore()
    save(checkpointer, 3, final=True)
    checkpointer.close()
    assert [(r.step, r.error) for r in world.records] == [(3, None)]
    assert_same(world.checkpointer(0).restore(), state_at(3))


def test_a_half_written_file_is_not_taken_for_a_whole_one(world: World, place: Place) -> None:
    checkpointer = troubled(world, lambda operation, name: None, half=True)
    checkpointer.restore()
    save(checkpointer, 3, final=True)
    checkpointer.close()
    storage = open_storage(place.url)
    verify(storage, survey(storage)[0])


def test_a_confirmation_that_is_spoilt_on_the_way_is_read_again(world: World, place: Place) -> None:
    class SpoiltOnce(Troubled):
        spoilt = False

        def read(self, name: str) -> Iterator[bytes]:
            for chunk in self._inner.read(name):
                yield b"?" + chunk[1:] if "part-" in name and not self.spoilt else chunk
                self.spoilt |= "part-" in name

    opened: list[SpoiltOnce] = []

    def open_at(url: str, options: Any) -> Storage:
        if "://" not in url:
            return open_storage(url, options)
        opened.append(SpoiltOnce(open_storage(url, options), lambda operation, name: None))
        return opened[-1]  # type: ignore[return-value]

    checkpointer = world.checkpointer(0, open_at=open_at)
    checkpointer.restore()
    save(checkpointer, 3, final=True)
    checkpointer.close()
    assert any(storage.spoilt for storage in opened)
    assert_same(world.checkpointer(0).restore(), state_at(3))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only"),
        PermissionError("403"),
    ],
    ids=["full", "read-only", "refused"],
)
def test_what_lasts_fails_at_once_and_training_goes_on(world: World, place: Place, error: OSError) -> None:
    broken = [True]

    def trouble(operation: str, name: str) -> None:
        if broken[0] and operation == "write" and "step-" in name:
            raise error

    checkpointer = troubled(world, trouble)
    checkpointer.restore()
    save(checkpointer, 3)
    with pytest.raises(CheckpointError) as caught:
        save(checkpointer, 4, final=True)
    assert str(error) in str(caught.value)
    assert "complete local copy: " in str(caught.value)
    assert "dydist checkpoint copy" in str(caught.value)
    assert world.records[-1].error is not None
    broken[0] = False
    save(checkpointer, 5, final=True)
    checkpointer.close()
    assert world.records[-1].error is None
    assert survey(open_storage(place.url))[0].step == 5


def test_what_could_not_be_uploaded_is_uploaded_by_the_next_start(world: World, place: Place) -> None:
    def trouble(operation: str, name: str) -> None:
        if operation == "write" and "step-" in name:
            raise OSError(errno.ENOSPC, "full")

    first = troubled(world, trouble)
    first.restore()
    with pytest.raises(CheckpointError):
        save(first, 7, final=True)
    first.close()
    assert survey(open_storage(place.url)) == []
    uploaded = threading.Event()
    world.records = Announcing(uploaded)
    second = world.checkpointer(0)
    assert_same(second.restore(), state_at(7))
    assert uploaded.wait(30)
    second.close()
    storage = open_storage(place.url)
    verify(storage, survey(storage)[0])


def test_a_hanging_store_holds_neither_the_loop_nor_memory(world: World) -> None:
    """One save in flight, one waiting, newer ones replace that; memory holds two copies."""
    release, began = threading.Event(), threading.Event()

    def trouble(operation: str, name: str) -> None:
        if operation == "write" and "step-" in name:
            began.set()
            release.wait(30)

    checkpointer = troubled(world, trouble)
    checkpointer.restore()
    save(checkpointer, 1)
    assert began.wait(10)
    for step in range(2, 20):
        save(checkpointer, step)
        phases = checkpointer._running().phases()  # what is kept: the one in flight, and the newest
        assert sum(phase not in ("done", "failed", "cancelled") for phase in phases.values()) <= 3
        assert len(checkpointer._memory._copies) <= 2
    release.set()
    save(checkpointer, 20, final=True)
    checkpointer.close()
    assert world.records[-1].step == 20
    assert len(world.records) < 6


class Disk:
    """A real file system of 1 MiB."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        (self.root / "filler").unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.root)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(root)], capture_output=True, text=True
    )
    if mounting.returncode != 0:
        pytest.skip(f"no right to mount a small disk: {mounting.stderr}")
    yield Disk(root)
    subprocess.run(["umount", str(root)], check=True)


def test_a_full_and_a_read_only_disk(disk: Disk, tmp_path: Path) -> None:
    """The kernel's own errors: told at once, nothing older is hurt, and the next save after it is well again."""
    world = World(1, Place(str(disk.root / "place")), tmp_path / "stage")
    checkpointer = world.checkpointer(0)
    checkpointer.restore()
    save(checkpointer, 1, final=True)
    for step, harm, heal, error in (
        (2, disk.fill, disk.free, "No space left on device"),
        (4, lambda: disk.remount("ro"), lambda: disk.remount("rw"), "Read-only file system"),
    ):
        harm()
        with pytest.raises(CheckpointError, match=error):
            save(checkpointer, step, final=True)
        assert error in (world.records[-1].error or "")
        heal()
        save(checkpointer, step + 1, final=True)
        assert world.records[-1].error is None
    checkpointer.close()
    storage = open_storage(world.place.url)
    found = survey(storage)
    assert [(item.step, item.problem) for item in found] == [(5, None), (3, None), (1, None)]
    for item in found:
        verify(storage, item)


def test_a_full_stage_costs_the_copy_and_not_the_save(disk: Disk, place: Place) -> None:
    world = World(1, place, disk.root)
    checkpointer = world.checkpointer(0)
    checkpointer.restore()
    disk.fill()
    save(checkpointer, 3, final=True)
    checkpointer.close()
    disk.free()
    assert any("no local copy" in note and "No space left" in note for note in world.notes)
    assert survey(open_storage(place.url))[0].problem is None


def test_a_person_is_told_and_waits_a_bounded_time() -> None:
    def trouble(operation: str, name: str) -> None:
        raise ConnectionRefusedError("connection refused")

    told: list[str] = []
    patient = Retrying(
        Troubled(open_storage("memory://gone"), trouble),  # type: ignore[arg-type]
        deadline=math.inf,
        clock=time.monotonic,
        cancelled=threading.Event(),
        on_retry=told.append,
        patience_s=0.3,
    )
    with pytest.raises(ConnectionRefusedError):
        patient.files("step-000000001")
    assert len(told) <= 1


def test_a_dead_stage_costs_the_copy_and_not_the_save(world: World, place: Place, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "node").write_text("not a folder")
    checkpointer = world.checkpointer(0)
    checkpointer.restore()
    save(checkpointer, 3, final=True)
    checkpointer.close()
    assert survey(open_storage(place.url))[0].problem is None
    assert any("local" in note for note in world.notes)


def test_an_unreachable_store_at_the_start_is_told(world: World) -> None:
    def trouble(operation: str, name: str) -> None:
        raise ConnectionRefusedError("connection refused")

    class Gone(Troubled):
        def create(self, name: str, data: bytes) -> None:
            trouble("create", name)

    gone = world.checkpointer(
        0, open_at=lambda url, options: Gone(open_storage(url), trouble), deadline_s=0.3
    )  # type: ignore[arg-type,return-value]
    with pytest.raises(CheckpointError, match="connection refused"):
        gone.restore()


def test_refused_credentials_are_the_users_to_put_right(world: World) -> None:
    class Refusing(Troubled):
        def create(self, name: str, data: bytes) -> None:
            raise PermissionError("Forbidden: https://user:hunter2@host/?X-Amz-Signature=abc")

    refusing = world.checkpointer(
        0,
        open_at=lambda url, options: Refusing(open_storage(url), lambda *_: None),  # type: ignore[arg-type,return-value]
    )
    with pytest.raises(UserError, match="access refused") as caught:
        refusing.restore()
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_which_errors_pass() -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
    from s3fs.utils import FileExpired

    def answer(status: int, code: str) -> ClientError:
        return ClientError(
            {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
        )

    replaced = FileExpired("LEASE.json", '"etag"')  # s3fs raises it from the 412 of a conditional GET
    replaced.__cause__ = answer(412, "PreconditionFailed")
    passing = [
        replaced,
        TimeoutError(), ConnectionResetError(), EOFError(), OSError("SFTP: Failure"), OSError(errno.EIO, "x"),
        OSError(errno.ESTALE, "x"), answer(503, "SlowDown"), answer(500, "InternalError"), answer(429, "Throttling"),
        answer(400, "RequestTimeout"), EndpointConnectionError(endpoint_url="http://x"),
    ]  # fmt: skip
    lasting = [
        PermissionError(), FileNotFoundError(), FileExistsError(), OSError(errno.ENOSPC, "x"), TypeError(),
        OSError(errno.EROFS, "x"), answer(403, "AccessDenied"), answer(404, "NoSuchBucket"), NoCredentialsError(),
        UserError("x"), CheckpointError("x"), KeyError(), ValueError(),
    ]  # fmt: skip
    assert [is_transient(error) for error in passing] == [True] * len(passing)
    assert [is_transient(error) for error in lasting] == [False] * len(lasting)


def test_secrets_are_hidden() -> None:
    options = {
        "key": "AKIA", "secret": "s3cr3t", "token": "t", "password": "p", "client_keys": ["~/.ssh/id"],
        "novel_name": "?",
        "endpoint_url": "http://me:pw@host:9000", "client_kwargs": {"region_name": "eu", "aws_secret_access_key": "k"},
        "anon": False,
    }  # fmt: skip
    shown = redact(options)
    assert shown["endpoint_url"] == "http://<hidden>@host:9000"
    assert shown["client_kwargs"] == {"region_name": "eu", "aws_secret_access_key": "<hidden>"}
    assert shown["anon"] is False
    for name in ("key", "secret", "token", "password", "novel_name"):
        assert shown[name] == "<hidden>"
    assert scrub("at s3://b/x?X-Amz-Signature=1f&a=b") == "at s3://b/x?X-Amz-Signature=<hidden>&a=b"


def test_a_large_state_is_written_without_a_second_copy(world: World, place: Place) -> None:
    """What is handed to the store are views of the host copy, chunk by chunk."""
    from dydist.checkpoint._tensors import CHUNK, encode

    state = TrainingState(step=1, model={"w": torch.arange(3 * CHUNK, dtype=torch.uint8)})
    header, *chunks = encode(state.model)
    assert [len(chunk) for chunk in chunks] == [CHUNK] * 3
    assert len(header) < 200
    state.model["w"][0] = 77
    assert chunks[0][0] == 77
