"""Where checkpoints lie: one small protocol, and the local disk. Remote places are in `_remote`.

Names are relative to the place and have at most two levels: a checkpoint's folder and a file in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dydist.checkpoint._format import MANIFEST, PARTIAL, REPLACED, leftover_step
from dydist.places import is_url, local_path

Chunks = Callable[[], Iterable["bytes | memoryview"]]
"""Makes a file's bytes anew, so that a write can be tried again."""

READ_BYTES = 4 << 20
TEMPORARY = ".tmp"
"""How the names of files end that are still being written. Nothing lists them."""

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems answer that have no fsync for a file or a folder: some FUSE, 9p and CIFS mounts."""
_CANNOT_LINK = {*_CANNOT_FLUSH, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV}
"""What file systems answer that have no hard links: FAT, many FUSE and CIFS mounts, and where links are forbidden."""


class Storage(Protocol):
    """A place for checkpoints. Every method may raise OSError; FileNotFoundError has its usual meaning.

    Every method is idempotent: an operation that took effect and then failed is tried again, and the second try must
    see what the first one did and succeed.
    """

    @property
    def url(self) -> str:
        """The place as shown to people: without secrets."""

    def folders(self) -> list[str]:
        """Names of the folders in the place, hidden ones too; empty where the place is not there."""

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name; empty where the folder is not there."""

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        """`files` of every folder whose name begins with `prefix`, in one look; None where each is to be asked."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no file of that name."""

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes in chunks."""

    def write(self, name: str, chunks: Chunks) -> None:
        """Write a file, replacing an older one: whole or not at all where the store can."""

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. FileExistsError where there is one with other bytes and the store can tell."""

    def delete(self, name: str) -> None:
        """Remove a file; no error where it is not there."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and its files; no error where it is not there."""

    def working_folder(self, folder: str, attempt: str) -> str:
        """Folder that an attempt writes its files to before `publish`."""

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        """Write the manifest last of all and let the checkpoint appear under its name.

        FileNotFoundError where the attempt's files are gone and the checkpoint does not show under its name either.
        """

    def modified(self, folder: str) -> float | None:
        """When something in a folder last changed, in seconds since 1970 by the store's clock; None: unknown."""


def open_storage(url: str, options: Mapping[str, Any] | None = None) -> Storage:
    """The place at a path or an fsspec URL. Opens no connection yet."""
    if not is_url(url):
        return LocalStorage(local_path(url))
    from dydist.checkpoint._remote import RemoteStorage

    return RemoteStorage(url, options or {})


def written_in_place(storage: Storage) -> bool:
    """Whether a save writes straight into the checkpoint's folder, where another save of the step may write too."""
    return storage.working_folder("folder", "attempt") == "folder"


def refuse_other_bytes(storage: Storage, name: str, data: bytes) -> None:
    """Raise FileExistsError where a file that is in the way of `create` is not what `create` was to write itself."""
    with contextlib.suppress(FileNotFoundError):
        if b"".join(storage.read(name)) == data:
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{storage.url}/{name}")


def not_a_file(name: str) -> str:
    """A hidden name for what is in the way of a file and is none."""
    return f".{name}.{uuid.uuid4().hex[:12]}.not-a-file"


class LocalStorage:
    """A folder; a checkpoint's folder appears complete or not at all.

    `durable`: what is written is flushed to the disk and outlasts a power cut. Without, it outlasts the process.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self._durable = durable
        self.root = Path(os.path.abspath(os.path.expanduser(path)))

    @property
    def url(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        names = set()
        for entry in self._entries(""):
            with _missing_is_no_error():
                if entry.is_dir():
                    names.add(entry.name)
        return sorted(names | self._finish_swaps(names))

    def files(self, folder: str) -> dict[str, int]:
        return {name: size for name, (size, _) in self._facts(folder).items() if not name.endswith(TEMPORARY)}

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        return None

    def _facts(self, folder: str) -> dict[str, tuple[int, float]]:
        """Bytes and time of change of each file in a folder, the temporary ones too."""
        result = {}
        for entry in self._entries(folder):
            # What another process renames while we look was a temporary file, or is gone.
            with _missing_is_no_error():
                if entry.is_file():
                    facts = entry.stat()
                    result[entry.name] = (facts.st_size, facts.st_mtime)
        return result

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int | None:
        with _missing_is_no_error():
            facts = (self.root / name).stat()
            if stat.S_ISREG(facts.st_mode):
                return facts.st_size
        return None

    def read(self, name: str) -> Iterator[bytes]:
        if self.size(name) is None:  # a folder has no bytes, and a pipe would let us wait for ever
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root / name))
        with (self.root / name).open("rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                yield chunk

    def write(self, name: str, chunks: Chunks) -> None:
        with self._whole(name, chunks) as temporary:
            _clear_the_way(self.root / name)
            temporary.replace(self.root / name)

    def create(self, name: str, data: bytes) -> None:
        with self._whole(name, lambda: [data]) as temporary:
            _clear_the_way(self.root / name)
            try:
                self._show(temporary, self.root / name)
            except FileExistsError:
                refuse_other_bytes(self, name, data)

    def _show(self, temporary: Path, target: Path) -> None:
        """Let a file appear whole under a name that is not taken."""
        try:
            os.link(temporary, target)
            return
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        # Without hard links the name is claimed by an empty file, and a rename fills it.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                if target.stat().st_size == 0:
                    target.unlink()
            raise

    @contextlib.contextmanager
    def _whole(self, name: str, chunks: Chunks) -> Iterator[Path]:
        """A temporary file beside the target, on the disk to the last byte; gone afterwards."""
        target = self.root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # which `create` raises for the file itself alone
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from None
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks())
                if self._durable:
                    file.flush()
                    _flush(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        with _missing_is_no_error(), contextlib.suppress(IsADirectoryError):  # a folder is no file
            (self.root / name).unlink()

    def delete_folder(self, folder: str) -> None:
        # The manifest first: a folder half deleted is not a checkpoint.
        path = self.root / folder
        if path.is_dir() and not path.is_symlink():
            _remove(path / MANIFEST)
        _remove(path)

    def working_folder(self, folder: str, attempt: str) -> str:
        return f".{folder}.{attempt}{PARTIAL}"

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        source, target = self.root / working, self.root / folder
        replaced = source.with_name(source.name.removesuffix(PARTIAL) + REPLACED)
        if source.is_dir():
            self.write(f"{working}/{MANIFEST}", lambda: [manifest])
            self._flush_folder(source)
            self._swap(source, target, replaced)
        elif not self._shows(folder, manifest):  # it does where an earlier try took effect before it failed
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._flush_folder(self.root)
        with contextlib.suppress(
            OSError
        ):  # what cannot be removed now is swept later, as a torn save's files are
            _remove(replaced)

    def _shows(self, folder: str, manifest: bytes) -> bool:
        try:
            return b"".join(self.read(f"{folder}/{MANIFEST}")) == manifest
        except FileNotFoundError:
            return False

    def _swap(self, source: Path, target: Path, replaced: Path) -> None:
        """Give a finished folder its name. What had the name, a damaged checkpoint or one that the user went back
        before, is moved out of the way, and comes back where the second rename fails."""
        try:
            if os.path.lexists(target):
                _remove(replaced)
                target.rename(replaced)
            source.rename(target)
        except OSError:
            if os.path.lexists(replaced) and not os.path.lexists(target):
                with contextlib.suppress(OSError):
                    replaced.rename(target)
            raise

    def _finish_swaps(self, names: set[str]) -> set[str]:
        """Finish what a process that died between the two renames of `_swap` began; returns what appeared.

        Else neither the checkpoint that was there nor the one that was to replace it would be found.
        """
        appeared = set()
        for name in names:
            if name.endswith(REPLACED) and leftover_step(name) is not None:
                attempt = name.removesuffix(REPLACED)
                folder = attempt[1 : attempt.rindex(".")]
                if folder not in names and (self.root / (attempt + PARTIAL) / MANIFEST).is_file():
                    with contextlib.suppress(OSError):  # not ours to write, or its owner was alive and did it
                        (self.root / (attempt + PARTIAL)).rename(self.root / folder)
                    if (self.root / folder).is_dir():
                        appeared.add(folder)
        return appeared

    def modified(self, folder: str) -> float | None:
        with _missing_is_no_error():
            own = (self.root / folder).stat().st_mtime
            return max([own, *(changed for _, changed in self._facts(folder).values())])
        return None

    def _flush_folder(self, path: Path) -> None:
        """Make renames in a folder last through a power cut."""
        if not self._durable:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            _flush(handle)
        finally:
            os.close(handle)


def _flush(handle: int) -> None:
    """fsync, where the file system has it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


@contextlib.contextmanager
def _missing_is_no_error() -> Iterator[None]:
    """What is gone, and a link that leads nowhere or in a circle, is passed over; other trouble is raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise


def _clear_the_way(target: Path) -> None:
    """Move aside what has the name of a file and is none, such as a folder: it can be neither read nor replaced."""
    if os.path.lexists(target) and not target.is_symlink() and not target.is_file():
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            target.rename(target.with_name(not_a_file(target.name)))


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds; no error where it is not there."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for _ in range(100):
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:  # another process removes it too
            if not path.exists():
                return
