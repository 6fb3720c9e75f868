"""A store at any fsspec URL: object stores, SFTP, FTP, WebDAV, memory.

A save writes directly into the checkpoint's folder, since object stores have no renames. The folder becomes a
checkpoint when the manifest is written, which is done last and atomically. What a store supports is
determined by trying it, not from its name or the classes of its errors.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from fsspec import AbstractFileSystem

from dydist.errors import DamagedError, UserError
from dydist.storage import ftp as _ftp
from dydist.storage.connections import Connections, Opened
from dydist.storage.names import MANIFEST
from dydist.storage.places import BUCKETS, SFTP, open_filesystem
from dydist.storage.protocol import READ_BYTES, TEMPORARY, Chunks, not_a_file, refuse_other_bytes
from dydist.storage.transient import chain, explain, ftp_reply, http_status, is_garbled, is_transient
from dydist.text.redaction import scrub

BLOCK = 16 << 20
"""Bytes of one part of a multipart upload. It bounds the memory of a transfer."""
SETTLE_S = 0.5
"""Seconds before a new file is read back, on a store that cannot refuse to overwrite an existing one."""

_FLAT = (*BUCKETS, "memory")
"""Protocols whose folders exist only as parts of names. Asking S3 to create one could create a bucket."""
_WITH_RENAMES = (*SFTP, "ftp", "webdav", "smb")
"""Protocols where a file is visible while it is being written, and a rename replaces the target in one step."""
_HEEDLESS = ("memory", "webdav")
"""Protocols that treat a folder like a file: a write replaces it, a delete removes it with its contents."""
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "modify", "created")
"""The keys under which file systems report when a file changed."""


class RemoteStorage:
    """A store accessed through fsspec. `pause` waits for the given number of seconds."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        pause: Callable[[float], None] = time.sleep,
        field: str = "checkpoint.url",
    ) -> None:
        """`options` go to fsspec's file system (endpoint, credentials). Without them, fsspec looks in the usual places.

        `field`: the configuration field that error messages name.
        """
        self._full_url = url.rstrip("/")
        self._protocol = url.partition("://")[0]
        self._pause = pause
        self._connections = Connections(lambda: open_filesystem(self._full_url, options, field=field))
        self._field = field
        self._heads = True
        self._lock = threading.Lock()
        self._refuses_taken: bool | None = None
        self._renames_replace = False
        self._deletes_folders = True
        self._bucket_seen = False

    @property
    def url(self) -> str:
        return scrub(self._full_url)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a connection cannot be passed to another process; open the store there")

    def folders(self) -> list[str]:
        return sorted({name for name, info in self._listing("") if info["type"] == "directory"})

    def files(self, folder: str) -> dict[str, int]:
        return {name: int(info["size"]) for name, info in self._listing(folder) if info["type"] == "file"}

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        # One request per thousand names at any depth; a store with folders needs a request per folder.
        if self._protocol not in BUCKETS or not self._heads:
            return None
        with self._connection() as (system, root):
            system.invalidate_cache()
            try:
                infos = system.find(root, prefix=prefix, detail=True)
            except FileNotFoundError as error:
                _check_missing(error)
                infos = {}
            if not isinstance(infos, dict) or not infos:
                self._check_bucket(system, root, FileNotFoundError(root))
                return {}
        found: dict[str, dict[str, int]] = {}
        for path, info in infos.items():
            folder, _, name = path.removeprefix(f"{root}/").partition("/")
            if info["type"] == "file" and name:
                files = found.setdefault(folder, {})
                if "/" not in name and not name.endswith(TEMPORARY):
                    files[name] = int(info["size"])
        return found

    def size(self, name: str) -> int | None:
        with self._connection() as (system, root):
            info = self._file(system, f"{root}/{name}")
            return None if info is None else int(info["size"])

    def read(self, name: str) -> Iterator[bytes]:
        with self._connection() as (system, root):
            path = f"{root}/{name}"
            if self._protocol == "ftp":
                if self._file(system, path) is None:
                    raise FileNotFoundError(path)
                yield from _ftp.retrieve(system.ftp, path)
                return
            try:
                yield from self._pieces(system, path)
            except Exception as error:
                if type(error).__name__ == "FlexibleChecksumError":  # by botocore, if S3 sent a checksum
                    raise DamagedError(f"{name} does not match the store's checksum: {error}") from error
                if not isinstance(error, FileNotFoundError) and self._is_folder(system, path):
                    raise FileNotFoundError(path) from None
                raise

    def _pieces(self, system: AbstractFileSystem, path: str) -> Iterator[bytes]:
        if path.endswith(".json") and self._protocol in BUCKETS:
            # A small file: one request, so that all of it is one version. By default s3fs requests the size first.
            yield system.cat_file(path, **({"max_concurrency": 1} if self._protocol in ("s3", "s3a") else {}))
            return
        if not self._heads and self._info(system, path) is None:
            raise FileNotFoundError(path)
        with system.open(path, "rb", block_size=READ_BYTES, cache_type="none") as file:
            while chunk := file.read(READ_BYTES):
                yield chunk

    def write(self, name: str, chunks: Chunks) -> None:
        with self._connection() as (system, root):
            target = f"{root}/{name}"
            self._make_parent(system, target)
            self._write(system, target, chunks)

    def create(self, name: str, data: bytes) -> None:
        with self._connection() as (system, root):
            target = f"{root}/{name}"
            self._make_parent(system, target)
            info = self._info(system, target)  # finds it even if the store ignores conditional writes
            taken = info is not None and not self._clear_the_way(system, target, info)
            atomic = not taken and self._can_refuse(system, root)
            if atomic:
                try:
                    self._write_new(system, target, data)
                    return
                except FileExistsError:
                    taken = True
            elif not taken:
                self._write(system, target, lambda: [data])
        if not taken:
            self._pause(SETTLE_S)  # if two processes found no file, the last write wins, and both read it
        refuse_other_bytes(self, name, data)

    def delete(self, name: str) -> None:
        with self._connection() as (system, root):
            path = f"{root}/{name}"
            if self._protocol in _HEEDLESS and self._file(system, path) is None:
                return
            try:
                system.rm_file(path)
            except FileNotFoundError:
                pass
            except Exception:
                if self._file(system, path) is not None:
                    raise

    def delete_folder(self, folder: str) -> None:
        # Delete the manifest first, so that a half-deleted folder is not a checkpoint.
        self.delete(f"{folder}/{MANIFEST}")
        with self._connection() as (system, root):
            path = f"{root}/{folder}"
            if self._deletes_folders:
                try:
                    system.rm(path, recursive=True)
                except FileNotFoundError:
                    return
                except Exception as error:
                    if is_transient(error):
                        raise
                    self._deletes_folders = False  # S3 without DeleteObjects: delete file by file from now on
            try:
                left = [info["name"] for info in _list(system, path) if info["type"] == "file"]
            except (FileNotFoundError, NotADirectoryError):
                return
            for one in left:
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(one)
            if self._protocol not in _FLAT:
                with contextlib.suppress(FileNotFoundError):
                    system.rmdir(path)

    def working_folder(self, folder: str, attempt: str) -> str:
        return folder

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self.write(f"{folder}/{MANIFEST}", lambda: [manifest])

    def modified(self, folder: str) -> float | None:
        times = [_changed(info) for _, info in self._listing(folder)]
        return max((t for t in times if t is not None), default=None)

    def _listing(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        """Names in a folder, with the store's information on each; an object store may list a name twice."""
        with self._connection() as (system, root):
            try:
                infos = _list(system, f"{root}/{folder}" if folder else root)
            except FileNotFoundError as error:
                self._check_bucket(system, root, error)
                return []
            except NotADirectoryError:
                return []
            named = [(posixpath.basename(info["name"].rstrip("/")), info) for info in infos]
            return [(name, info) for name, info in named if name and not name.endswith(TEMPORARY)]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Opened]:
        with self._connections.use() as opened:
            try:
                yield opened
            except Exception as error:
                if is_garbled(error):  # Swift under eventlet answers a HEAD for a missing name like this
                    self._heads = self._deletes_folders = False  # a recursive delete sends a HEAD, too
                raise

    def _info(self, system: AbstractFileSystem, path: str) -> dict[str, Any] | None:
        """The store's information on a name; None if it is missing. (fsspec's `exists` is False after any error.)"""
        try:
            if not self._heads and self._protocol in BUCKETS:
                if "/" not in path:
                    return {"name": path, "type": "directory", "size": len(system.ls(path, detail=False))}
                try:
                    system.cat_file(path, 0, 1)
                except OSError as error:
                    if not any(http_status(one) == 416 for one in chain(error)):  # it exists, and is empty
                        raise
            info: dict[str, Any] = system.info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            _check_missing(error)
            return None
        return info

    def _file(self, system: AbstractFileSystem, path: str) -> dict[str, Any] | None:
        """The store's information on a file; None if there is no file of that name."""
        info = self._info(system, path)
        return info if info is not None and info["type"] == "file" else None

    def _is_folder(self, system: AbstractFileSystem, path: str) -> bool:
        """Whether the store confirms that a name is a folder; False if the request fails."""
        with contextlib.suppress(Exception):
            info = self._info(system, path)
            return info is not None and info["type"] == "directory"
        return False

    def _clear_the_way(self, system: AbstractFileSystem, target: str, info: Mapping[str, Any]) -> bool:
        """Rename a folder that occupies a file's name. Returns False if a file occupies it."""
        if info["type"] != "directory":
            return False
        if self._protocol not in BUCKETS:  # in a bucket, a file and a folder may share a name
            folder, base = posixpath.split(target)
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                _rename(system, target, f"{folder}/{not_a_file(base)}", replace=False)
        return True

    def _check_bucket(self, system: AbstractFileSystem, root: str, error: FileNotFoundError) -> None:
        """Raise UserError if the bucket does not exist. An empty store is not an error."""
        if self._protocol not in BUCKETS or self._bucket_seen:
            return
        bucket = root.partition("/")[0]
        with contextlib.suppress(PermissionError):  # some users may access only a part of a bucket
            told = any("NoSuchBucket" in str(getattr(one, "response", "")) for one in chain(error))
            if told or self._info(system, bucket) is None:
                raise UserError(
                    f"{self._field}: there is no bucket {bucket!r} for {self.url}; create it, or give another URL"
                )
        self._bucket_seen = True

    def _make_parent(self, system: AbstractFileSystem, target: str) -> None:
        if self._protocol in _FLAT:
            return
        folder = posixpath.dirname(target)
        try:
            system.makedirs(folder, exist_ok=True)
        except Exception:  # another process may have been quicker
            info = self._info(system, folder)
            if info is None or info["type"] != "directory":
                raise

    def _write(self, system: AbstractFileSystem, target: str, chunks: Chunks) -> None:
        if self._protocol in _HEEDLESS and (info := self._info(system, target)) is not None:
            self._clear_the_way(system, target, info)
        try:
            self._write_over(system, target, chunks)
        except Exception:
            if self._protocol in BUCKETS or not self._is_folder(system, target):
                raise
            self._clear_the_way(system, target, {"type": "directory"})
            self._write_over(system, target, chunks)

    def _write_over(self, system: AbstractFileSystem, target: str, chunks: Chunks) -> None:
        if self._protocol == "memory":  # its files are visible while they are being written
            system.pipe_file(target, b"".join(chunks()))
        elif self._protocol in _WITH_RENAMES:
            with self._aside(system, target, chunks) as temporary:
                _rename(system, temporary, target, replace=True)
        else:
            self._stream(system, target, chunks, "wb")

    @contextlib.contextmanager
    def _aside(self, system: AbstractFileSystem, target: str, chunks: Chunks) -> Iterator[str]:
        """Write a temporary file beside the target, for the caller to rename; removes it after an error."""
        folder, base = posixpath.split(target)
        temporary = f"{folder}/.{base}.{uuid.uuid4().hex[:12]}{TEMPORARY}"
        try:
            self._stream(system, temporary, chunks, "wb")
            yield temporary
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm_file(temporary)
            raise

    def _write_new(self, system: AbstractFileSystem, target: str, data: bytes) -> None:
        """Create a file. Raises FileExistsError if the name exists and the store refuses; not all stores do."""
        opened = False

        def chunks() -> Iterator[bytes]:
            nonlocal opened
            opened = True
            yield data

        try:
            paramiko = self._protocol in SFTP and hasattr(system, "ftp")
            if self._protocol == "webdav" or (paramiko and not self._renames_replace):
                with self._aside(system, target, lambda: [data]) as temporary:
                    _rename(system, temporary, target, replace=False)
            elif self._protocol in SFTP:  # creates an empty file first, which stays if the process is killed
                self._stream(system, target, chunks, "xb")
            elif type(system).pipe_file is AbstractFileSystem.pipe_file:
                raise NotImplementedError(
                    f"{self._protocol}:// checks whether the name exists, and then writes"
                )
            else:
                system.pipe_file(target, data, mode="create")
        except FileExistsError:
            raise
        except Exception as error:
            if opened:  # our own file, perhaps incomplete: a retry would take it for another process's
                with contextlib.suppress(Exception):
                    system.rm_file(target)
                raise
            conflicts = (409, 412) if self._protocol in BUCKETS else (412,)
            # SFTP has no error code for an existing file: it says "Failure"
            sftp = self._protocol in SFTP and self._info(system, target) is not None
            if sftp or any(http_status(one) in conflicts for one in chain(error)):
                raise FileExistsError(target) from error
            raise

    def _can_refuse(self, system: AbstractFileSystem, root: str) -> bool:
        """Whether the store refuses to create a file that exists; tested once, by creating one twice."""
        with self._lock:
            if self._refuses_taken is None:
                probe = f"{root}/.probe-{uuid.uuid4().hex[:12]}{TEMPORARY}"
                try:
                    self._write_new(system, probe, b"1")
                    self._write_new(system, probe, b"2")
                    if self._protocol in SFTP and not self._renames_replace:  # this server's renames replace
                        self._renames_replace = True
                        self._write_new(system, probe, b"3")
                    self._refuses_taken = False  # the store ignores the condition
                except FileExistsError:
                    self._refuses_taken = True
                except Exception as error:
                    if is_transient(error):
                        raise
                    self._refuses_taken = False  # the store does not support such a request
                finally:
                    with contextlib.suppress(Exception):
                        system.rm_file(probe)
            return self._refuses_taken

    def _stream(self, system: AbstractFileSystem, path: str, chunks: Chunks, mode: str) -> None:
        if self._protocol == "ftp":
            _ftp.store(system.ftp, path, chunks())
            return
        options = {} if self._protocol in _WITH_RENAMES else {"block_size": BLOCK}
        file = system.open(path, mode, **options)
        try:
            for chunk in chunks():
                file.write(chunk)
            file.close()
        except BaseException:
            _abandon(file)
            raise


def _list(system: AbstractFileSystem, path: str) -> list[dict[str, Any]]:
    """The current names in a folder; drops the cache that some file systems keep regardless of options."""
    system.invalidate_cache()
    try:
        listed: list[dict[str, Any]] = system.ls(path, detail=True)
    except FileNotFoundError as error:
        _check_missing(error)
        raise
    return listed


def _check_missing(error: OSError) -> None:
    """Raise OSError if a file system reports a name as missing although its request failed, as fsspec's FTP does."""
    for cause in list(chain(error))[1:]:
        said = http_status(cause) or ftp_reply(cause)
        broken = isinstance(cause, TimeoutError | ConnectionError | EOFError)
        if (said is not None and is_transient(cause)) or broken:
            raise OSError(errno.EIO, f"cannot tell whether the file exists: {explain(cause)}") from cause


def _rename(system: AbstractFileSystem, source: str, target: str, *, replace: bool) -> None:
    if hasattr(system, "client") and hasattr(system.client, "move"):  # WebDAV, whose `mv` copies and removes
        system.client.move(source, target, overwrite=replace)
    elif not replace and hasattr(system, "ftp"):  # SFTP's own rename never replaces a file; `mv` does
        system.ftp.rename(source, target)
    else:
        system.mv(source, target, recursive=not replace)


def _changed(info: Mapping[str, Any]) -> float | None:
    """When a file changed, in seconds since 1970."""
    value = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            if value[:14].isdigit():  # FTP: 20261128050000.123, in UTC
                parsed = datetime.strptime(value[:14], "%Y%m%d%H%M%S")
            else:
                parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
        return None
    return value.timestamp() if isinstance(value, datetime) else None


def _abandon(file: Any) -> None:
    """Discard a file that is half written, without completing it."""
    try:
        discard = getattr(file, "discard", None)
        if discard is None:
            file.close()
        elif not file.closed:
            with contextlib.suppress(AttributeError):  # webdav4's file is closed by `discard`
                file.closed = True  # otherwise its finaliser would complete the upload
            discard()
    except Exception:
        pass  # the caller raises the error that led here
