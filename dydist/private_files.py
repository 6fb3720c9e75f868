"""Folders and files that only this user can write, at paths where other users could create theirs first.

Code and checkpoints are loaded from folders with predictable names (below /tmp) or named by environment variables.
They must belong to this user or root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotPrivateError(PermissionError):
    """Another user owns, or may have changed, a folder or a file. The message names the owner and a remedy."""


def private_folder(folder: Path) -> Path:
    """Create a folder that only this user can access, with its parents, and return it.

    Raises NotPrivateError if it exists and belongs to another user, is a link, or is writable by others; OSError if
    it cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)
    return folder


def check_private(folder: Path) -> None:
    """Raise NotPrivateError if a folder exists and is not private to this user, as by `private_folder`."""
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
    """Create and return `top`/`below`, if each folder from `top` down belongs to this user or root.

    `below`: names separated by "/". Write access by others to this user's folders is removed; this user's links are
    followed. Raises NotPrivateError if one belongs to another user, OSError if one cannot be created.
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
    """Whether a path is a regular file of this user or root that no other user could have changed."""
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = found.st_uid in (os.geteuid(), 0)
    return mine and stat.S_ISREG(found.st_mode) and not found.st_mode & WRITABLE_BY_OTHERS


def is_made_by(folder: Path, owners: Collection[int]) -> bool:
    """Whether a folder belongs to one of these users, or does not exist. False for a link."""
    try:
        found = folder.lstat()
    except OSError:
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners


def _descent(top: Path, below: str) -> list[Path]:
    parts = [part for part in below.split("/") if part]
    return [top.joinpath(*parts[: count + 1]) for count in range(len(parts))]


def _check_own(folder: Path) -> None:
    for found in (folder.lstat(), folder.stat()):  # the owners of a link and of its target
        if found.st_uid not in (os.geteuid(), 0):
            raise NotPrivateError(
                f"{folder} belongs to {_user(found.st_uid)}; give {_user(os.geteuid())} a folder of its own"
            )


def _user(number: int) -> str:
    """A user's name, or the user id if there is none."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
