"""A place on any fsspec URL: object stores, SFTP, memory.

A checkpoint is written straight into its folder, as object stores have no renames; the manifest, which comes last and
appears whole, makes it one. The connection is made anew after it broke, in the process that uses it.
"""

from __future__ import annotations

import contextlib
import posixpath
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from dydist.checkpoint._errors import DamagedError
from dydist.checkpoint._format import MANIFEST
from dydist.checkpoint._storage import READ_BYTES, TEMPORARY, Chunks
from dydist.errors import UserError
from dydist.redaction import scrub

BLOCK = 16 << 20
"""Bytes of one part of a multipart upload: bounds the memory of a transfer."""

_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
"""Stores where a folder is only a part of names. Asking S3 to make one could make a bucket."""
_WITH_RENAMES = {"sftp", "ssh"}
"""Stores where a file that is being written shows half done, and a rename replaces in one step."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "sftp": "sftp", "ssh": "sftp"}


class RemoteStorage:
    """A place behind fsspec."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        """`options` go to fsspec's file system (endpoint, credentials); without, the usual places are asked."""
        self._full_url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        self._options = dict(options)
        self._lock = threading.Lock()
        self._connected: tuple[fsspec.AbstractFileSystem, str] | None = None

    @property
    def url(self) -> str:
        return scrub(self._full_url)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a connection is not carried to another process; open the place there")

    def folders(self) -> list[str]:
        return [name for name, info in self._listing("").items() if info["type"] == "directory"]

    def files(self, folder: str) -> dict[str, int]:
        listing = self._listing(folder)
        return {name: int(info["size"]) for name, info in listing.items() if info["type"] == "file"}

    def size(self, name: str) -> int | None:
        with self._connection() as (system, root):
            try:
                info = system.info(f"{root}/{name}")
            except FileNotFoundError:
                return None
            return int(info["size"])

    def read(self, name: str) -> Iterator[bytes]:
        with (
            self._connection() as (system, root),
            system.open(f"{root}/{name}", "rb", block_size=READ_BYTES, cache_type="none") as file,
        ):
            try:
                while chunk := file.read(READ_BYTES):
                    yield chunk
            except Exception as error:
                if type(error).__name__ == "FlexibleChecksumError":  # botocore's, where S3 sends a checksum
                    raise DamagedError(f"{name} does not match the store's checksum: {error}") from error
                raise

    def write(self, name: str, chunks: Chunks) -> None:
        with self._connection() as (system, root):
            target = f"{root}/{name}"
            self._make_parent(system, target)
            if self._protocol == "memory":  # its files show while they are written
                system.pipe_file(target, b"".join(chunks()))
            elif self._protocol in _WITH_RENAMES:
                folder, base = posixpath.split(target)
                temporary = f"{folder}/.{base}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
                try:
                    self._stream(system, temporary, chunks, "wb")
                    system.mv(temporary, target)
                except BaseException:
                    _quietly_remove(system, temporary)
                    raise
            else:
                self._stream(system, target, chunks, "wb")

    def create(self, name: str, data: bytes) -> None:
        with self._connection() as (system, root):
            target = f"{root}/{name}"
            self._make_parent(system, target)
            if self._protocol in _WITH_RENAMES:
                try:
                    self._stream(system, target, lambda: [data], "xb")
                except Exception as error:  # SFTP's protocol has no word for it: "Failure"
                    if system.exists(target):
                        raise FileExistsError(target) from error
                    raise
                return
            try:
                system.pipe_file(target, data, mode="create")
            except (NotImplementedError, ValueError, TypeError):  # a store that cannot tell: look, then write
                if system.exists(target):
                    raise FileExistsError(target) from None
                system.pipe_file(target, data)

    def delete(self, name: str) -> None:
        with self._connection() as (system, root), contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{root}/{name}")

    def delete_folder(self, folder: str) -> None:
        # The manifest first: a folder half deleted is not a checkpoint.
        self.delete(f"{folder}/{MANIFEST}")
        with self._connection() as (system, root), contextlib.suppress(FileNotFoundError):
            system.rm(f"{root}/{folder}", recursive=True)

    def working_folder(self, folder: str, attempt: str) -> str:
        return folder

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self.write(f"{folder}/{MANIFEST}", lambda: [manifest])

    def modified(self, folder: str) -> float | None:
        times = [
            info.get("mtime") or info.get("LastModified") or info.get("created")
            for info in self._listing(folder).values()
        ]
        known = [t if isinstance(t, int | float) else t.timestamp() for t in times if t is not None]
        return max(known) if known else None

    def _listing(self, folder: str) -> dict[str, dict[str, Any]]:
        with self._connection() as (system, root):
            path = f"{root}/{folder}" if folder else root
            try:
                infos = system.ls(path, detail=True)
            except FileNotFoundError:
                if self._protocol in ("s3", "s3a"):
                    self._check_bucket(system, root)
                return {}
            except NotADirectoryError:
                return {}
            named = {posixpath.basename(info["name"].rstrip("/")): info for info in infos}
            return {name: info for name, info in named.items() if name and not name.endswith(TEMPORARY)}

    def _connection(self) -> _Connection:
        return _Connection(self)

    def _connect(self) -> tuple[fsspec.AbstractFileSystem, str]:
        with self._lock:
            if self._connected is None:
                self._connected = _open_system(self._protocol, self._full_url, self._options)
            return self._connected

    def _disconnect(self) -> None:
        with self._lock:
            self._connected = None

    def _make_parent(self, system: fsspec.AbstractFileSystem, target: str) -> None:
        if self._protocol not in _WITHOUT_FOLDERS:
            system.makedirs(posixpath.dirname(target), exist_ok=True)

    def _check_bucket(self, system: fsspec.AbstractFileSystem, root: str) -> None:
        """Tell a missing bucket, which is an error, from a place that holds nothing yet."""
        bucket = root.partition("/")[0]
        try:
            system.ls(bucket, detail=False)
        except FileNotFoundError:
            raise UserError(
                f"checkpoint.url: there is no bucket {bucket!r} for {self.url}; make it, or give another URL"
            ) from None

    def _stream(self, system: fsspec.AbstractFileSystem, path: str, chunks: Chunks, mode: str) -> None:
        options = {} if self._protocol in _WITH_RENAMES else {"block_size": BLOCK}
        file = system.open(path, mode, **options)
        try:
            for chunk in chunks():
                file.write(chunk)
            file.close()
        except BaseException:
            _abandon(file)
            raise


class _Connection:
    """The file system for one operation; forgets the connection where it failed, so that the next makes a new one."""

    def __init__(self, storage: RemoteStorage) -> None:
        self._storage = storage

    def __enter__(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return self._storage._connect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        harmless = (FileNotFoundError, FileExistsError, UserError, DamagedError, GeneratorExit)
        if error is not None and not isinstance(error, harmless):
            self._storage._disconnect()


def _open_system(
    protocol: str, url: str, options: Mapping[str, Any]
) -> tuple[fsspec.AbstractFileSystem, str]:
    settings = _defaults(protocol, options)
    try:
        if protocol in _WITH_RENAMES:
            return _open_sftp(url, settings)
        return fsspec.core.url_to_fs(url, **settings)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'dydist[{extra}]'" if extra else "install the fsspec implementation for it"
        raise UserError(
            f"checkpoint.url: {protocol}:// cannot be used: {scrub(str(error))}; {remedy}"
        ) from None


def _open_sftp(url: str, settings: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """fsspec's own SFTP file system neither reads ~/.ssh/config nor checks host keys; sshfs does both."""
    import asyncssh
    from sshfs import SSHFileSystem

    settings = {**SSHFileSystem._get_kwargs_from_urls(url), **settings}
    try:
        system = SSHFileSystem(**settings, skip_instance_cache=True)
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyImportError) as error:
        raise PermissionError(
            f"{scrub(url)}: {error}; `ssh` to it once, or add its key to known_hosts"
        ) from error
    return system, system._strip_protocol(url)


def _defaults(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that make failures show in bounded time, under the user's own."""
    settings: dict[str, Any] = dict(options)
    if protocol != "memory":
        settings["skip_instance_cache"] = True  # a connection of this place alone, safe after a fork
    if protocol in ("s3", "s3a"):
        settings["use_listings_cache"] = False
        patience = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}
        settings["config_kwargs"] = {**patience, **settings.get("config_kwargs", {})}
    if protocol in _WITH_RENAMES:
        settings.pop("skip_instance_cache")
        settings = {"known_hosts": (), "keepalive_interval": 10, "connect_timeout": 20, **settings}
    return settings


def _abandon(file: Any) -> None:
    """Drop a file that is half written, without completing it."""
    try:
        discard = getattr(file, "discard", None)
        if discard is not None and not file.closed:
            file.closed = True  # or its finaliser would complete the upload
            discard()
        elif discard is None:
            file.close()
    except Exception:
        pass  # the error that led here is the one to tell


def _quietly_remove(system: fsspec.AbstractFileSystem, path: str) -> None:
    with contextlib.suppress(Exception):
        system.rm_file(path)
