"""One conformance suite for every store: what `Storage` promises holds on disk, in memory, on S3 and over SFTP."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from dydist.checkpoint import Storage, open_storage, scrub
from dydist.errors import UserError
from dydist.storage.retry import Retrying
from helpers.checkpoint_places import Place, SftpServer


@pytest.fixture
def storage(place: Place) -> Storage:
    return open_storage(place.url, place.options)


def read(storage: Storage, name: str) -> bytes:
    return b"".join(storage.read(name))


def test_an_empty_place(storage: Storage) -> None:
    assert storage.folders() == []
    assert storage.files("step-000000001") == {}
    assert storage.size("LEASE.json") is None
    assert storage.modified("step-000000001") is None
    with pytest.raises(FileNotFoundError):
        read(storage, "LEASE.json")
    storage.delete("LEASE.json")
    storage.delete_folder("step-000000001")


def test_write_list_read_replace_delete(storage: Storage) -> None:
    storage.write("folder/file", lambda: [b"abc", memoryview(b"def")])
    storage.write("folder/other", lambda: [b""])
    storage.write("top", lambda: [b"x"])
    assert storage.folders() == ["folder"]
    assert storage.files("folder") == {"file": 6, "other": 0}
    assert storage.size("folder/file") == 6
    assert read(storage, "folder/file") == b"abcdef"
    storage.write("folder/file", lambda: [b"new"])
    assert read(storage, "folder/file") == b"new"
    assert storage.files("folder")["file"] == 3
    assert storage.modified("folder") is not None
    storage.delete("folder/other")
    assert storage.files("folder") == {"file": 3}
    storage.delete_folder("folder")
    assert storage.folders() == []
    assert storage.files("folder") == {}
    assert read(storage, "top") == b"x"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(storage: Storage) -> None:
    """As a lease is at each heartbeat: s3fs looks at a file first, and refuses to read another than it saw."""
    storage.write("LEASE.json", lambda: [b"0"])
    stop, failures = threading.Event(), []

    def beat() -> None:
        count = 0
        while not stop.wait(0.05):
            count += 1
            try:
                storage.write("LEASE.json", lambda data=b"%d" % count: [data])
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        patient = Retrying(storage, deadline=60, clock=lambda: 0.0, cancelled=threading.Event())
        assert all(b"".join(patient.read("LEASE.json")).isdigit() for _ in range(10))
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_large_files_go_in_parts(storage: Storage) -> None:
    """More than two parts of a multipart upload."""
    block = bytes(range(256)) * 4096
    storage.write("folder/large", lambda: [block] * 35)
    assert storage.size("folder/large") == 35 << 20
    assert read(storage, "folder/large") == block * 35


def test_create_refuses_a_name_that_is_taken(storage: Storage) -> None:
    storage.create("LEASE.json", b"mine")
    with pytest.raises(FileExistsError):
        storage.create("LEASE.json", b"yours")
    assert read(storage, "LEASE.json") == b"mine"


@pytest.mark.parametrize("amount", [10, 40 << 20])
def test_a_write_that_fails_leaves_the_old_file(storage: Storage, amount: int) -> None:
    storage.write("folder/file", lambda: [b"old"])

    def cut() -> object:
        yield b"x" * amount
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        storage.write("folder/file", cut)  # type: ignore[arg-type]
    assert storage.files("folder") == {"file": 3}
    assert read(storage, "folder/file") == b"old"


def test_publish_lets_a_folder_appear_with_its_manifest(storage: Storage) -> None:
    working = storage.working_folder("step-000000001", "abc123")
    storage.write(f"{working}/model", lambda: [b"weights"])
    assert "MANIFEST.json" not in storage.files("step-000000001")
    storage.publish(working, "step-000000001", b"{}")
    assert storage.files("step-000000001") == {"model": 7, "MANIFEST.json": 2}
    assert storage.folders() == ["step-000000001"]


def test_publish_replaces(storage: Storage) -> None:
    for attempt, content in (("aaa111", b"one"), ("bbb222", b"second")):
        working = storage.working_folder("step-000000001", attempt)
        storage.write(f"{working}/model-{attempt}", lambda content=content: [content])  # type: ignore[misc]
        storage.publish(working, "step-000000001", content)
    assert read(storage, "step-000000001/MANIFEST.json") == b"second"
    assert read(storage, "step-000000001/model-bbb222") == b"second"
    assert storage.folders() == ["step-000000001"]


def test_a_connection_is_not_pickled(storage: Storage) -> None:
    if "://" in storage.url:
        with pytest.raises(TypeError, match="open the store there"):
            pickle.dumps(storage)


def test_ssh_config_names_host_key_and_user(
    sftp_server: SftpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """sftp://alias/… with nothing but ~/.ssh/config."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {sftp_server.port}\n  IdentityFile {sftp_server.key}\n"
        f"  UserKnownHostsFile {sftp_server.known_hosts}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = open_storage(f"sftp://cluster{sftp_server.folder}/by-alias")
    storage.write("folder/file", lambda: [b"abc"])
    assert (sftp_server.folder / "by-alias" / "folder" / "file").read_bytes() == b"abc"


def test_an_aws_profile_gives_endpoint_and_credentials(
    s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """s3://… with nothing but the files that `aws configure` writes."""
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {s3_server['key']}\naws_secret_access_key = {s3_server['secret']}\n"
    )
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {s3_server['endpoint_url']}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    storage = open_storage("s3://bucket/by-profile")
    storage.write("folder/file", lambda: [b"abc"])
    assert storage.files("folder") == {"file": 3}


def test_an_unknown_host_key_is_refused(sftp_server: SftpServer, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    options = {**sftp_server.options, "known_hosts": str(tmp_path / "known_hosts")}
    with pytest.raises(PermissionError, match=r"(?i)host key"):
        open_storage(f"{sftp_server.url}/place", options).folders()


def test_a_missing_bucket_is_told(s3_server: dict[str, object]) -> None:
    with pytest.raises(UserError, match="no bucket 'nowhere'"):
        open_storage("s3://nowhere/place", s3_server).folders()


def test_an_unknown_protocol_is_told() -> None:
    with pytest.raises(UserError, match="carrierpigeon"):
        open_storage("carrierpigeon://coop/place").folders()


def test_a_place_is_shown_without_its_password() -> None:
    storage = open_storage("sftp://me:hunter2@host/place")
    assert storage.url == scrub("sftp://me:hunter2@host/place") == "sftp://me:<hidden>@host/place"
