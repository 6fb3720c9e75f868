"""Places that a secret opens: S3 (moto) and SFTP with a password."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from planted import PASSWORD, SECRET


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options of a running S3 server with the bucket `bucket`."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        port = next(
            found[1] for line in process.stderr if (found := re.search(r"on http://127\.0\.0\.1:(\d+)", line))
        )
        threading.Thread(target=process.stderr.read, daemon=True).start()
        options = {"key": "planted-key", "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{port}"}
        fsspec.filesystem("s3", **options, skip_instance_cache=True).mkdir("bucket")
        yield options
        process.terminate()


@pytest.fixture(scope="session")
def sftp_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`host:port` of an SFTP server that lets `me` in with PASSWORD, and its file of known hosts."""
    home = tmp_path_factory.mktemp("sftp")
    (home / "data").mkdir()
    server = Path(__file__).with_name("password_server.py")
    command = [sys.executable, str(server), str(home / "data"), PASSWORD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}", home / "known_hosts"
        process.terminate()
