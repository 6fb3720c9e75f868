"""Where checkpoint tests save: a place on each store, on servers that the fixtures of conftest.py started."""

from __future__ import annotations

import getpass
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

STORES = ("file", "memory", "s3", "sftp")
"""What the whole suite runs over, kills included."""
OTHER_SERVERS = ("ftp", "webdav", "asyncssh")
"""Other servers, which come as Python packages."""
FOREIGN_SERVERS = ("azurite", "s3rver", "swift")
"""Servers that come from npm and Debian: `-m long` (docs/notes/checkpoints.md)."""


@dataclass(frozen=True)
class Place:
    """Somewhere checkpoints can go: a URL and the storage options for it."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SftpServer:
    """A running sshd: its port, folder, the client's key and the file of known host keys."""

    port: int
    folder: Path
    key: Path
    known_hosts: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"client_keys": [str(self.key)], "known_hosts": str(self.known_hosts), "config": None}

    @property
    def url(self) -> str:
        return f"sftp://{getpass.getuser()}@127.0.0.1:{self.port}{self.folder}"


def place_on(store: str, request: pytest.FixtureRequest) -> Place:
    """A fresh, empty place on a store."""
    name = uuid.uuid4().hex
    if store == "file":
        return Place(str(request.getfixturevalue("tmp_path") / name))
    if store == "memory":
        return Place(f"memory://{name}/place")
    if store == "s3":
        return Place(f"s3://bucket/{name}/place", request.getfixturevalue("s3_server"))
    if store in ("sftp", "asyncssh"):
        server: SftpServer = request.getfixturevalue(f"{store}_server")
        return Place(f"{server.url}/{name}/place", server.options)
    at: Place = request.getfixturevalue(f"{store}_server")
    return Place(f"{at.url}/{name}/place", at.options)
