"""Folders and files of this user alone, where other users of the machine could have put theirs before.

What is loaded from a folder whose name can be guessed (below /tmp) or that an environment variable names may only be
this user's own work, or root's: built kernels are run, a staged checkpoint is gone on from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotPrivateError(PermissionError):
    """A folder or a file is, or may have been changed by, someone else's. The message says whose, and what to do."""


def private_folder(folder: Path) -> Path:
    """Make a folder for this user alone, below one that is there or can be made, and return it.

    Raises NotPrivateError where it was there before and is not this user's, is a link, or could be written by others;
    OSError where it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)
    return folder


def check_private(folder: Path) -> None:
    """Raise NotPrivateError where a folder is there and was not made by `private_folder` for this user."""
    try:
        found = folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        fault = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    elif found.st_uid != os.geteuid():
        fault = f"belongs to {_user(found.st_uid)}"
    elif found.st_mode & WRITABLE_BY_OTHERS:
        fault = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        return
    raise NotPrivateError(f"{folder} {fault}, and must be {_user(os.geteuid())}'s alone")


def own_folder(top: Path, below: str = "") -> Path:
    """Make `top`/`below`, and return it, where each folder from `top` down is this user's own, or root's.

    `below` has at most "/" between names. Folders of this user's own are closed to writing by others; links of this
    user's own are followed. Raises NotPrivateError where one is not, OSError where one cannot be made.
    """
    top.parent.mkdir(parents=True, exist_ok=True)
    for folder in (top, *_descent(top, below)):
        folder.mkdir(mode=0o755, exist_ok=True)
        _check_own(folder)
        found = folder.stat()
        if found.st_uid == os.geteuid() and found.st_mode & WRITABLE_BY_OTHERS:
            folder.chmod(stat.S_IMODE(found.st_mode) & ~WRITABLE_BY_OTHERS)
        elif found.st_mode & WRITABLE_BY_OTHERS:
            raise NotPrivateError(f"{folder} can be written by others; give this user a folder of its own")
    return top / below


def is_own_file(path: Path) -> bool:
    """Whether a file is there, regular, this user's or root's, and nobody else could have changed it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = found.st_uid in (os.geteuid(), 0)
    return mine and stat.S_ISREG(found.st_mode) and not found.st_mode & WRITABLE_BY_OTHERS


def is_made_by(folder: Path, owners: Collection[int]) -> bool:
    """Whether a folder is one of these users', or is not there yet. A link is nobody's."""
    try:
        found = folder.lstat()
    except OSError:
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners


def _descent(top: Path, below: str) -> list[Path]:
    parts = [part for part in below.split("/") if part]
    return [top.joinpath(*parts[: count + 1]) for count in range(len(parts))]


def _check_own(folder: Path) -> None:
    for found in (folder.lstat(), folder.stat()):  # a link's owner, and that of what it leads to
        if found.st_uid not in (os.geteuid(), 0):
            raise NotPrivateError(
                f"{folder} belongs to {_user(found.st_uid)}; give {_user(os.geteuid())} a folder of its own"
            )


def _user(number: int) -> str:
    """A user's name, or its number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
