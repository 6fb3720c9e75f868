"""Getting the archive: from a real HTTP server, from the folder itself, or not at all with the offline ways told."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import socket
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dydist.config import DataConfig
from dydist.data import open_dataset
from dydist.data.cifar import CIFAR10, CIFAR100
from dydist.data.download import Source, download, published
from dydist.errors import UserError
from helpers.damaged import FOLDER, write_cifar10

OFFLINE_WAYS = (
    "cifar-10-python.tar.gz",
    "unpack it in",
    "data.root",
    "dydist data prepare",
    "data.name=digits",
)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """The source of a small archive on this machine; the file is `served/cifar-10-python.tar.gz`."""
    folder = write_cifar10(tmp_path / "original") / FOLDER
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / CIFAR10.archive, "w:gz") as tar:
        tar.add(folder, arcname=FOLDER)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield source_of(served / CIFAR10.archive, web.server_address[1])
        web.shutdown()
        thread.join()


def source_of(archive: Path, port: int) -> Source:
    return Source(
        url=f"http://127.0.0.1:{port}/{archive.name}", md5=hashlib.md5(archive.read_bytes()).hexdigest()
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every request goes to a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    urllib.request.install_opener(None)  # type: ignore[arg-type]  # forget the proxies of earlier requests
    yield
    urllib.request.install_opener(None)  # type: ignore[arg-type]


def left_overs(root: Path) -> list[str]:
    return [path.name for path in root.glob(".dydist-download*")]


def test_a_download_puts_the_whole_folder_in_place(server: Source, tmp_path: Path) -> None:
    root, lines = tmp_path / "deep" / "root", list[str]()
    download(CIFAR10, root, progress=lines.append, source=server)
    assert [line.split()[0] for line in lines] == ["downloading", "unpacking"]
    assert len(open_dataset(DataConfig(name="cifar10", root=str(root), download=False), "train")) == 100
    assert sorted(path.name for path in root.iterdir()) == [".dydist-cache", FOLDER]


def test_a_killed_download_is_swept_and_another_data_sets_is_not(server: Source, tmp_path: Path) -> None:
    root = tmp_path / "root"
    killed = root / f".dydist-download-cifar10-{socket.gethostname()}-abc"
    running = root / f".dydist-download-cifar100-{socket.gethostname()}-abc"
    for path in (killed, running):
        path.mkdir(parents=True)
    download(CIFAR10, root, progress=print, source=server)
    assert left_overs(root) == [running.name]


def test_an_archive_that_lies_there_is_unpacked_without_network(
    server: Source, tmp_path: Path, no_network: None
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = root / CIFAR10.archive
    archive.write_bytes((tmp_path / "served" / CIFAR10.archive).read_bytes())
    download(CIFAR10, root, progress=print, source=Source(url="http://example.invalid/", md5=server.md5))
    assert len(open_dataset(DataConfig(name="cifar10", root=str(root)), "test")) == 20
    assert archive.exists()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_damaged_archive_is_told_and_kept(tmp_path: Path, no_network: None, allowed: bool) -> None:
    archive = tmp_path / CIFAR10.archive
    archive.write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"tar\.gz is damaged: its MD5 is not c58f.*Move it away"):
        open_dataset(DataConfig(name="cifar10", root=str(tmp_path), download=allowed), "train")
    assert archive.read_bytes() == b"half a download"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_network_the_offline_ways_are_told(name: str, tmp_path: Path, no_network: None) -> None:
    root = tmp_path / "root"
    with pytest.raises(UserError) as caught:
        open_dataset(DataConfig(name=name, root=str(root)), "train")  # type: ignore[arg-type]
    ways = [
        way.replace("cifar-10-", {"cifar10": "cifar-10-", "cifar100": "cifar-100-"}[name])
        for way in OFFLINE_WAYS
    ]
    for words in (*ways, "could not be got", "Connection refused", str(root)):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_overs(root) == []


def test_another_archive_than_the_published_one_is_refused(server: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="corrupted"):
        download(CIFAR10, tmp_path / "root", progress=print, source=Source(url=server.url, md5="0" * 32))
    assert list((tmp_path / "root").iterdir()) == []


def test_a_page_that_is_gone_is_told(server: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"404.*digits"):
        download(CIFAR10, tmp_path / "r", progress=print, source=Source(url=server.url + "x", md5=server.md5))


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = Source(url=f"http://127.0.0.1:{silent.getsockname()[1]}/x", md5="0" * 32)
        with pytest.raises(UserError, match=r"timed out.*dydist data prepare"):
            download(CIFAR10, tmp_path, progress=print, source=source, timeout_s=0.1)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("member", ["../outside", "/tmp/dydist-outside", "other-folder/data_batch_1"])
def test_an_archive_of_other_places_puts_nothing_there(member: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = root / CIFAR10.archive
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="could not be got"):
        download(CIFAR10, root, progress=print, source=source_of(archive, 1))
    assert list(tmp_path.iterdir()) == [root]
    assert list(root.iterdir()) == [archive]
    assert not Path("/tmp/dydist-outside").exists()


def test_a_folder_with_some_files_missing_is_never_downloaded_over(tmp_path: Path, no_network: None) -> None:
    root = write_cifar10(tmp_path)
    (root / FOLDER / "test_batch").unlink()
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=r"lacks test_batch.*move it away"):
        open_dataset(DataConfig(name="cifar10", root=str(root)), "train")
    assert [path for path in sorted(root.rglob("*")) if ".dydist-cache" not in str(path)] == before


def test_torchvision_knows_both_archives() -> None:
    for layout in (CIFAR10, CIFAR100):
        source = published(layout)
        assert source.url.endswith("/" + layout.archive)
        assert len(source.md5) == 32
