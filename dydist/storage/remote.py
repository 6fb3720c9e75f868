"""A place on any fsspec URL: object stores, SFTP, FTP, WebDAV, memory.

A checkpoint is written straight into its folder, as object stores have no renames; the manifest, which comes last and
appears whole, makes it one. What a store can do is found out by trying it, not by its name or its errors' classes.
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
"""Bytes of one part of a multipart upload: bounds the memory of a transfer."""
SETTLE_S = 0.5
"""Where a store cannot refuse a name that is taken: between writing it and believing that nobody else did."""

_WITHOUT_FOLDERS = (*BUCKETS, "memory")
"""Stores where a folder is only a part of names. Asking S3 to make one could make a bucket."""
_WITH_RENAMES = (*SFTP, "ftp", "webdav", "smb")
"""Stores where a file that is being written shows half done, and a rename replaces in one step."""
_HEEDLESS = ("memory", "webdav")
"""Stores that take a folder for a file: they write over it, or remove it with all that it holds."""
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "modify", "created")
"""Under which names file systems tell when a file changed."""


class RemoteStorage:
    """A place behind fsspec. `pause` waits for some seconds."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        pause: Callable[[float], None] = time.sleep,
        field: str = "checkpoint.url",
    ) -> None:
        """`options` go to fsspec's file system (endpoint, credentials); without, the usual places are asked.

        `field`: what the user's mistakes are told of.
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
        raise TypeError("a connection is not carried to another process; open the place there")

    def folders(self) -> list[str]:
        return sorted({name for name, info in self._listing("") if info["type"] == "directory"})

    def files(self, folder: str) -> dict[str, int]:
        return {name: int(info["size"]) for name, info in self._listing(folder) if info["type"] == "file"}

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        # A request for a thousand names, however deep; stores with folders would be asked folder by folder.
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
                if type(error).__name__ == "FlexibleChecksumError":  # botocore's, where S3 sends a checksum
                    raise DamagedError(f"{name} does not match the store's checksum: {error}") from error
                if not isinstance(error, FileNotFoundError) and self._is_folder(system, path):
                    raise FileNotFoundError(path) from None
                raise

    def _pieces(self, system: AbstractFileSystem, path: str) -> Iterator[bytes]:
        if path.endswith(".json") and self._protocol in BUCKETS:
            # Small: one request, and all of it of one version. s3fs else asks for the size first.
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
            info = self._info(system, target)  # also for stores that ignore the condition
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
            self._pause(SETTLE_S)  # two that both saw nothing: the last write wins, and both see whose it was
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
        # The manifest first: a folder half deleted is not a checkpoint.
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
                    self._deletes_folders = False  # S3 without DeleteObjects, say: one by one from now on
            try:
                left = [info["name"] for info in _list(system, path) if info["type"] == "file"]
            except (FileNotFoundError, NotADirectoryError):
                return
            for one in left:
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(one)
            if self._protocol not in _WITHOUT_FOLDERS:
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
        """Names in a folder, and what the store tells of them; an object store may have two of one name."""
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
                if is_garbled(error):  # Swift under eventlet, after a HEAD of what is not there
                    self._heads = self._deletes_folders = False  # which looks with a HEAD, too
                raise

    def _info(self, system: AbstractFileSystem, path: str) -> dict[str, Any] | None:
        """What a store knows of a name; None where it is not there (`exists` calls every error that)."""
        try:
            if not self._heads and self._protocol in BUCKETS:
                if "/" not in path:
                    return {"name": path, "type": "directory", "size": len(system.ls(path, detail=False))}
                try:
                    system.cat_file(path, 0, 1)
                except OSError as error:
                    if not any(http_status(one) == 416 for one in chain(error)):  # there, and empty
                        raise
            info: dict[str, Any] = system.info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            _check_missing(error)
            return None
        return info

    def _file(self, system: AbstractFileSystem, path: str) -> dict[str, Any] | None:
        """What a store knows of a file; None where there is none of that name."""
        info = self._info(system, path)
        return info if info is not None and info["type"] == "file" else None

    def _is_folder(self, system: AbstractFileSystem, path: str) -> bool:
        """Whether a name is known to be a folder's."""
        with contextlib.suppress(Exception):
            info = self._info(system, path)
            return info is not None and info["type"] == "directory"
        return False

    def _clear_the_way(self, system: AbstractFileSystem, target: str, info: Mapping[str, Any]) -> bool:
        """Move a folder aside that has a file's name, and can be neither read nor replaced. False: it is a file."""
        if info["type"] != "directory":
            return False
        if self._protocol not in BUCKETS:  # where a name may be a file's and a folder's
            folder, base = posixpath.split(target)
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                _rename(system, target, f"{folder}/{not_a_file(base)}", replace=False)
        return True

    def _check_bucket(self, system: AbstractFileSystem, root: str, error: FileNotFoundError) -> None:
        """Tell a missing bucket, which is an error, from a place that holds nothing yet."""
        if self._protocol not in BUCKETS or self._bucket_seen:
            return
        bucket = root.partition("/")[0]
        with contextlib.suppress(PermissionError):  # who may write to a part of a bucket alone
            told = any("NoSuchBucket" in str(getattr(one, "response", "")) for one in chain(error))
            if told or self._info(system, bucket) is None:
                raise UserError(
                    f"{self._field}: there is no bucket {bucket!r} for {self.url}; make it, or give another URL"
                )
        self._bucket_seen = True

    def _make_parent(self, system: AbstractFileSystem, target: str) -> None:
        if self._protocol in _WITHOUT_FOLDERS:
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
        if self._protocol == "memory":  # its files show while they are written
            system.pipe_file(target, b"".join(chunks()))
        elif self._protocol in _WITH_RENAMES:
            with self._aside(system, target, chunks) as temporary:
                _rename(system, temporary, target, replace=True)
        else:
            self._stream(system, target, chunks, "wb")

    @contextlib.contextmanager
    def _aside(self, system: AbstractFileSystem, target: str, chunks: Chunks) -> Iterator[str]:
        """A file beside the target, written to its end; removed where it is not renamed."""
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
        """Write in the way in which a store that can refuses a name that is taken. FileExistsError where it is."""
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
            elif self._protocol in SFTP:  # shows an empty file first, which a kill leaves
                self._stream(system, target, chunks, "xb")
            elif type(system).pipe_file is AbstractFileSystem.pipe_file:
                raise NotImplementedError(f"{self._protocol}:// looks first and then writes")
            else:
                system.pipe_file(target, data, mode="create")
        except FileExistsError:
            raise
        except Exception as error:
            if opened:  # our own file, perhaps half of it, which the next try would take for somebody else's
                with contextlib.suppress(Exception):
                    system.rm_file(target)
                raise
            conflicts = (409, 412) if self._protocol in BUCKETS else (412,)
            # SFTP's protocol has no word for it: "Failure"
            sftp = self._protocol in SFTP and self._info(system, target) is not None
            if sftp or any(http_status(one) in conflicts for one in chain(error)):
                raise FileExistsError(target) from error
            raise

    def _can_refuse(self, system: AbstractFileSystem, root: str) -> bool:
        """Whether the store refuses a name that is taken, found out once by writing one twice."""
        with self._lock:
            if self._refuses_taken is None:
                probe = f"{root}/.probe-{uuid.uuid4().hex[:12]}{TEMPORARY}"
                try:
                    self._write_new(system, probe, b"1")
                    self._write_new(system, probe, b"2")
                    if self._protocol in SFTP and not self._renames_replace:  # a server whose renames replace
                        self._renames_replace = True
                        self._write_new(system, probe, b"3")
                    self._refuses_taken = False  # it ignores the condition
                except FileExistsError:
                    self._refuses_taken = True
                except Exception as error:
                    if is_transient(error):
                        raise
                    self._refuses_taken = False  # it knows no such request
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
    """The names in a folder, as of now: some file systems keep listings by themselves."""
    system.invalidate_cache()
    try:
        listed: list[dict[str, Any]] = system.ls(path, detail=True)
    except FileNotFoundError as error:
        _check_missing(error)
        raise
    return listed


def _check_missing(error: OSError) -> None:
    """Raise OSError where a file system calls missing what it could not ask for, as fsspec's FTP does."""
    for cause in list(chain(error))[1:]:
        said = http_status(cause) or ftp_reply(cause)
        broken = isinstance(cause, TimeoutError | ConnectionError | EOFError)
        if (said is not None and is_transient(cause)) or broken:
            raise OSError(errno.EIO, f"cannot tell whether it is there: {explain(cause)}") from cause


def _rename(system: AbstractFileSystem, source: str, target: str, *, replace: bool) -> None:
    if hasattr(system, "client") and hasattr(system.client, "move"):  # WebDAV, whose `mv` copies and removes
        system.client.move(source, target, overwrite=replace)
    elif not replace and hasattr(system, "ftp"):  # SFTP's own rename replaces nothing; `mv` is one that does
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
    """Drop a file that is half written, without completing it."""
    try:
        discard = getattr(file, "discard", None)
        if discard is None:
            file.close()
        elif not file.closed:
            with contextlib.suppress(AttributeError):  # webdav4's closes itself with `discard`
                file.closed = True  # or its finaliser would complete the upload
            discard()
    except Exception:
        pass  # the error that led here is the one to tell
