"""A store on a mounted file system: a local disk or a network file system."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from dydist.storage.names import MANIFEST, PARTIAL, REPLACED, leftover_step
from dydist.storage.protocol import READ_BYTES, TEMPORARY, Chunks, not_a_file, refuse_other_bytes

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems without fsync for files or folders: some FUSE, 9p and CIFS mounts."""
_CANNOT_LINK = {*_CANNOT_FLUSH, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV}
"""Errors of file systems without hard links: FAT, many FUSE and CIFS mounts, or if links are forbidden."""


class LocalStorage:
    """A store in a folder; a checkpoint's folder appears atomically.

    `durable`: flush all writes to disk, so that they survive a power loss; otherwise they only survive the process.
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
        """Size and modification time of each file in a folder, including temporary ones."""
        result = {}
        for entry in self._entries(folder):
            # A file that another process renames meanwhile was temporary, or is gone.
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
        if self.size(name) is None:  # a folder has no bytes, and reading a pipe would block
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
        """Make a complete file appear under a free name."""
        try:
            os.link(temporary, target)
            return
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        # Without hard links, an empty file claims the name, and a rename fills it.
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
        """A completely written temporary file next to the target; removed afterwards."""
        target = self.root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # which `create` only raises for the file itself
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
        with _missing_is_no_error(), contextlib.suppress(IsADirectoryError):  # a folder is not a file
            (self.root / name).unlink()

    def delete_folder(self, folder: str) -> None:
        # The manifest first: a partly deleted folder is not a checkpoint.
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
        elif not self._shows(folder, manifest):  # true if an earlier attempt took effect before it failed
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._flush_folder(self.root)
        with contextlib.suppress(
            OSError
        ):  # what cannot be removed now is removed later, as a torn save's files
            _remove(replaced)

    def _shows(self, folder: str, manifest: bytes) -> bool:
        try:
            return b"".join(self.read(f"{folder}/{MANIFEST}")) == manifest
        except FileNotFoundError:
            return False

    def _swap(self, source: Path, target: Path, replaced: Path) -> None:
        """Rename a finished folder to its name. A folder with that name, a damaged checkpoint or one set aside, is
        moved away first, and moved back if the second rename fails."""
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
        """Finish the renames of processes that died within `_swap`; returns the folders that appeared.

        Otherwise neither the old checkpoint nor its replacement would be found.
        """
        appeared = set()
        for name in names:
            if name.endswith(REPLACED) and leftover_step(name) is not None:
                attempt = name.removesuffix(REPLACED)
                folder = attempt[1 : attempt.rindex(".")]
                if folder not in names and (self.root / (attempt + PARTIAL) / MANIFEST).is_file():
                    with contextlib.suppress(OSError):  # not writable, or its owner was alive and renamed it
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
        """Make renames in a folder survive a power loss."""
        if not self._durable:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            _flush(handle)
        finally:
            os.close(handle)


def _flush(handle: int) -> None:
    """fsync, if the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


@contextlib.contextmanager
def _missing_is_no_error() -> Iterator[None]:
    """Ignore missing files and dangling or circular links; raise other errors."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise


def _clear_the_way(target: Path) -> None:
    """Move aside something that has a file's name but is not a file, such as a folder."""
    if os.path.lexists(target) and not target.is_symlink() and not target.is_file():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            target.rename(target.with_name(not_a_file(target.name)))


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents; no error if it does not exist."""
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
