"""Places that a secret opens: S3 (moto) and SFTP with a password."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.planted import PASSWORD, s3_server
from helpers.support import REPOSITORY


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options of a running S3 server with the bucket `bucket`."""
    with s3_server() as options:
        yield options


@pytest.fixture(scope="session")
def sftp_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`host:port` of an SFTP server that lets `me` in with PASSWORD, and its file of known hosts."""
    home = tmp_path_factory.mktemp("sftp")
    (home / "data").mkdir()
    server = REPOSITORY / "tests/helpers/password_server.py"
    command = [sys.executable, str(server), str(home / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{PASSWORD}\n")  # tests look for it in the command lines of all processes
        process.stdin.flush()
        yield f"127.0.0.1:{int(process.stdout.readline())}", home / "known_hosts"
        process.terminate()
