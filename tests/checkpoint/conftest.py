"""Real servers for checkpoint tests, started by the suite itself."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import pytest

from helpers.checkpoint_places import STORES, Place, SftpServer, place_on
from helpers.support import REPOSITORY, free_port, missing
from helpers.swift_server import KEY, SECRET, missing_programs
from helpers.swift_server import swift_server as running_swift


def _await_line(stream: IO[str], pattern: str) -> re.Match[str]:
    """Read a server's log until a line matches; then keep reading it away in the background."""
    seen = []
    for line in stream:
        seen.append(line)
        if match := re.search(pattern, line):
            threading.Thread(target=_drain, args=(stream,), daemon=True).start()
            return match
    raise RuntimeError(f"the server ended before it was ready:\n{''.join(seen)}")


def _drain(stream: IO[str]) -> None:
    """Read a log to its end, so that the server never waits for us; the end comes with its last child's."""
    with stream:
        for _ in stream:
            pass


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, Any]]:
    """Storage options of a running S3 server with the bucket `bucket`."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        port = _await_line(process.stderr, r"Running on http://127\.0\.0\.1:(\d+)")[1]
        options = {"key": "access", "secret": "s3-secret-key", "endpoint_url": f"http://127.0.0.1:{port}"}
        fsspec.filesystem("s3", **options, skip_instance_cache=True).mkdir("bucket")
        yield options
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """Debian's sshd on a free loopback port with its own keys and configuration."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None:
        missing("sshd (apt-get install openssh-server)")
        return
    home = tmp_path_factory.mktemp("sshd")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    (home / "authorized_keys").write_text((home / "client.pub").read_text())
    (home / "data").mkdir()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd, started by root, insists on this folder
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nPidFile {home}/pid\n"
        f"AuthorizedKeysFile {home}/authorized_keys\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nSubsystem sftp internal-sftp\nMaxStartups 1000\nMaxSessions 100\n"
    )
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    command = [sshd, "-D", "-e", "-f", str(home / "sshd_config")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        _await_line(process.stderr, "Server listening on")
        yield SftpServer(
            port=port, folder=home / "data", key=home / "client", known_hosts=home / "known_hosts"
        )
    finally:
        _stop(process)


@contextmanager
def packaged_server(kind: str, folder: Path) -> Iterator[int]:
    """The port of a server of store_servers.py in a process of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tests/helpers/store_servers.py"), kind, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        yield int(_await_line(process.stdout, r"^(\d+)$")[1])
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """pyftpdlib."""
    with packaged_server("ftp", tmp_path_factory.mktemp("ftp")) as port:
        yield Place(f"ftp://127.0.0.1:{port}/data", {"username": "me", "password": "ftp-secret"})


@pytest.fixture(scope="session")
def webdav_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """wsgidav behind cheroot."""
    with packaged_server("webdav", tmp_path_factory.mktemp("webdav")) as port:
        yield Place("webdav://data", {"base_url": f"http://127.0.0.1:{port}"})


@pytest.fixture(scope="session")
def asyncssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    """asyncssh's SFTP server."""
    home = tmp_path_factory.mktemp("asyncssh")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    (home / "authorized_keys").write_text((home / "client.pub").read_text())
    with packaged_server("asyncssh", home / "data") as port:
        (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
        yield SftpServer(
            port=port, folder=home / "data", key=home / "client", known_hosts=home / "known_hosts"
        )


@contextmanager
def npm_server(name: str, *arguments: str, cwd: Path) -> Iterator[None]:
    """A server from npm: in PATH, or below the folder that DYDIST_TEST_NPM names (`npm install azurite s3rver`)."""
    folder = os.environ.get("DYDIST_TEST_NPM", "")
    program = shutil.which(name, path=f"{folder}/node_modules/.bin{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip(f"{name} is missing (npm install {name}; DYDIST_TEST_NPM names the folder)")
    process = subprocess.Popen(
        [program, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        _await_line(process.stdout, r"(?i)listen(s|ing)")
        yield
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Microsoft's emulator of Azure's blob storage, with the key that its documentation publishes."""
    home, port = tmp_path_factory.mktemp("azurite"), free_port()
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key}"
    options = {
        "connection_string": f"{account};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;",
        "account_name": "devstoreaccount1",
    }
    flags = ("--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry", "--location", str(home))
    with npm_server("azurite-blob", *flags, cwd=home):
        fsspec.filesystem("az", **options, skip_instance_cache=True).mkdir("bucket")
        yield Place("az://bucket", options)


@pytest.fixture(scope="session")
def s3rver_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An S3 server that ignores If-None-Match."""
    home, port = tmp_path_factory.mktemp("s3rver"), free_port()
    options = {"key": "S3RVER", "secret": "S3RVER", "endpoint_url": f"http://127.0.0.1:{port}"}
    flags = ("-d", str(home), "-a", "127.0.0.1", "-p", str(port), "--configure-bucket", "bucket")
    with npm_server("s3rver", *flags, cwd=home):
        yield Place("s3://bucket", options)


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """OpenStack Swift with s3api, which answers If-None-Match with 501."""
    if absent := missing_programs():
        pytest.skip(f"{', '.join(absent)} missing (apt-get install swift-proxy swift-account swift-container "
                    "swift-object memcached)")  # fmt: skip
    with running_swift(tmp_path_factory.mktemp("swift")) as endpoint:
        options = {"key": KEY, "secret": SECRET, "endpoint_url": endpoint}
        fsspec.filesystem("s3", **options, skip_instance_cache=True).mkdir("bucket")
        yield Place("s3://bucket", options)


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest) -> Place:
    """A fresh, empty place on each store in turn."""
    return place_on(request.param, request)
