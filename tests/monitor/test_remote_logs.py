from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.io_wrapper import IsSummaryEventsFile

from dydist.errors import UserError
from dydist.monitor import LineProgress, Monitors
from dydist.monitor.outputs.eventlog import EventLog, event_files
from dydist.monitor.outputs.layout import configuration
from dydist.monitor.outputs.shipping import Shipper
from dydist.monitor.outputs.tensorboard import TensorBoard
from dydist.monitor.viewing import fetch, folder_name, inside, log_folder, name, view
from helpers.monitor_records import step_record, summary

FOREVER = 3600.0


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Options for a real S3 protocol peer on loopback, with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    fsspec.filesystem("s3", **options).mkdir("bucket")
    yield options
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def told(messages: list[tuple[str, str]]) -> Any:
    return lambda text, level: messages.append((text, level))


def steps(folder: str) -> list[int]:
    reader = EventAccumulator(folder, size_guidance={"scalars": 0})
    reader.Reload()
    return [event.step for event in reader.Scalars("loss/train")]


def train(folder: Path, url: str | None, options: dict[str, Any], *, start: int, end: int) -> None:
    messages: list[tuple[str, str]] = []
    board = TensorBoard(folder, run_dir=folder.parent, url=url, options=options, tell=told(messages))
    board.start(step=start, total_steps=100, steps_per_epoch=10)
    for step in range(start + 1, end + 1):
        board.step(step_record(step))
    board.close(summary())
    assert messages == []


def test_a_killed_runs_tail_is_sent_by_the_next_start(tmp_path: Path, s3: dict[str, Any]) -> None:
    url = "s3://bucket/logs/run"
    train(tmp_path / "tensorboard", None, s3, start=0, end=30)  # as if killed before its first upload
    train(tmp_path / "tensorboard", url, s3, start=20, end=50)
    fetched = tmp_path / "mirror"
    assert fetch(url, fetched, **s3) == 2
    assert fetch(url, fetched, **s3) == 0
    assert steps(str(fetched)) == list(range(1, 51))


class Watched(LocalFileSystem):
    """Local files, noting what a reader of the target's folder could see while a file is on its way."""

    protocol = "watched"
    seen: ClassVar[list[str]] = []

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        super().get_file(rpath, lpath, **options)
        self.seen.extend(path.name for path in Path(lpath).parent.iterdir())


def test_a_file_on_its_way_is_not_taken_for_a_log(tmp_path: Path) -> None:
    """TensorBoard reads every file whose name holds `tfevents`, and gives up a folder where one goes away."""
    train(tmp_path / "run" / "tensorboard", None, {}, start=0, end=5)
    fsspec.register_implementation("watched", Watched, clobber=True)
    Watched.seen.clear()
    assert fetch(f"watched://{tmp_path}/run/tensorboard", tmp_path / "mirror") == 1
    assert Watched.seen
    assert not any(IsSummaryEventsFile(name) for name in Watched.seen)
    assert steps(str(tmp_path / "mirror")) == [1, 2, 3, 4, 5]


def test_only_what_is_new_is_uploaded(tmp_path: Path) -> None:
    """Each look uploads one segment of the bytes since the last; together they are the local file."""
    log = EventLog(tmp_path, purge_step=1)
    url = f"memory://{tmp_path.name}/new"
    looks = 4
    for look in range(looks):
        log.add(configuration(f"seed: {look}"), look)
        shipper = Shipper(tmp_path, url, options={}, every_s=FOREVER)
        shipper.close()
    store = fsspec.filesystem("memory")
    segments = sorted(store.ls(f"/{tmp_path.name}/new", detail=False))
    assert len(segments) == 1  # a new start goes on at the newest segment, which may have been cut short
    assert store.cat_file(segments[0]) == log.path.read_bytes()


def test_segments_of_one_process_never_overlap(tmp_path: Path) -> None:
    log = EventLog(tmp_path, purge_step=1)
    url = f"memory://{tmp_path.name}/running"
    shipper = Shipper(tmp_path, url, options={}, every_s=FOREVER)
    for look in range(3):
        log.add(configuration(f"seed: {look}"), look)
        shipper._send()
    shipper.close()
    store = fsspec.filesystem("memory")
    segments = sorted(store.ls(f"/{tmp_path.name}/running", detail=False))
    assert len(segments) == 3
    assert b"".join(map(store.cat_file, segments)) == log.path.read_bytes()
    reader = EventAccumulator(f"memory://{tmp_path.name}/running", size_guidance={"tensors": 0})
    reader.Reload()
    assert [event.step for event in reader.Tensors("config/text_summary")] == [0, 1, 2]


def test_tensorboard_reads_s3_itself(
    tmp_path: Path, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "tensorboard", "s3://bucket/logs/direct", s3, start=0, end=7)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", s3["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3["endpoint_url"])
    monkeypatch.setenv("S3_ENDPOINT", s3["endpoint_url"])
    assert steps("s3://bucket/logs/direct") == list(range(1, 8))


def test_a_store_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    """A store that is not there, told once; the log stays on the local disk, and the end says where."""
    log = EventLog(tmp_path, purge_step=1)
    twice = threading.Semaphore(0)

    class Unreachable(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "unreachable"

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            twice.release()
            raise OSError("no route to host")

    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    shipper = Shipper(tmp_path, "unreachable://log", options={}, every_s=0.001)
    assert twice.acquire(timeout=10)
    assert twice.acquire(timeout=10)
    shipper.close()
    messages = list(shipper.pop_messages())
    assert [level for _, level in messages] == ["warning", "warning"]
    assert "no route to host" in messages[0][0]
    assert str(tmp_path) in messages[1][0]
    assert event_files(tmp_path) == [log.path]


def test_mistakes_are_told(tmp_path: Path, s3: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="there is nothing there"):
        fetch("s3://bucket/nothing", tmp_path, **s3)
    with pytest.raises(UserError, match="there is no protocol nosuch://"):
        fetch("nosuch://bucket", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        fetch("s3://bucket/x", tmp_path, **{**s3, "endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(UserError, match="no such folder"):
        log_folder(tmp_path / "missing")
    with pytest.raises(UserError, match="nothing to show"):
        view([], port=1, host="localhost", every_s=1.0, mirror=None)


def test_names(tmp_path: Path) -> None:
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    assert log_folder(tmp_path / "run") == tmp_path / "run" / "tensorboard"
    assert name(str(tmp_path / "run")) == name(str(tmp_path / "run" / "tensorboard")) == "run"
    assert folder_name("s3://bucket/logs/run 1/") == "bucket-logs-run-1"


def test_a_store_that_fails_holds_up_neither_the_run_nor_its_end(tmp_path: Path) -> None:
    """The failure's note goes through the monitors' lock, which the closing thread holds: no deadlock."""
    messages: list[str] = []
    monitors = Monitors()

    def tell(text: str, level: str) -> None:
        monitors.note(text, level=level)

    board = TensorBoard(tmp_path / "tensorboard", run_dir=tmp_path, url="nosuch://log", tell=tell)
    monitors.add([board, LineProgress(messages.append)])
    monitors.start(step=0, total_steps=1, steps_per_epoch=1)
    monitors.step(step_record(1))
    began = time.monotonic()
    monitors.close(summary())
    assert time.monotonic() - began < 30
    assert [
        text for text in messages if text.startswith("warning: TensorBoard log: cannot write to nosuch://log")
    ]


def test_the_command_shows_a_remote_log_and_what_is_added_to_it(tmp_path: Path, s3: dict[str, Any]) -> None:
    url = "s3://bucket/logs/command"
    train(tmp_path / "tensorboard", url, s3, start=0, end=5)
    environment = {
        **os.environ,
        "FSSPEC_S3_ENDPOINT_URL": s3["endpoint_url"],
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
    }
    command = [sys.executable, "-m", "dydist.cli.main", "tensorboard", url, "--port", "0", "--every-s", "0.5"]
    mirror = tmp_path / "mirror"
    command += ["--mirror", str(mirror)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("http://localhost:" in line for line in process.stderr)
            mirrored = mirror / "bucket-logs-command"
            assert steps(str(mirrored)) == [1, 2, 3, 4, 5]
            train(tmp_path / "tensorboard", url, s3, start=5, end=8)
            end = time.monotonic() + 60
            while steps(str(mirrored)) != list(range(1, 9)):
                assert time.monotonic() < end
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


@pytest.mark.parametrize(
    "bad",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "..",
        "a//x",
        "a\\..\\x",
        "a\0x",
        "./x",
        "a/./x",
        "a/..",
        "",
        "a\nx",
        "link/x",
        "file",
    ],
)
def test_no_objects_name_leads_out_of_the_mirror(bad: str, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "link").symlink_to(tmp_path)
    (mirror / "file").symlink_to(tmp_path / "outside")
    assert inside(mirror, bad) is None
    assert inside(mirror, "a/b.tfevents") == mirror / "a" / "b.tfevents"


def test_a_bucket_that_others_write_to_cannot_write_here(tmp_path: Path, s3: dict[str, Any]) -> None:
    """Before, `dydist tensorboard` wrote this object beside its mirror."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3["endpoint_url"],
        aws_access_key_id="k",
        aws_secret_access_key="s",
        region_name="us-east-1",
    )
    for key in ("hostile/good", "hostile/../../escaped", "hostile/a/../../../escaped"):
        client.put_object(Bucket="bucket", Key=key, Body=b"x")
    fetch("s3://bucket/hostile", tmp_path / "deep" / "mirror", **s3)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["good"]
