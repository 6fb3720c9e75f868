"""Real servers for checkpoint tests, started by the suite itself: S3 (moto, its own process) and SFTP (OpenSSH)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
import pytest
from checkpoint_places import STORES, Place, SftpServer, place_on
from support import missing


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


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest) -> Place:
    """A fresh, empty place on each store in turn."""
    return place_on(request.param, request)
