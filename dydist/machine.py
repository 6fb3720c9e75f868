"""The machine and the user of this process."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from dydist.errors import UserError
from dydist.private_files import private_folder


def processor_name() -> str:
    """The CPU's model name, if Linux reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def usable_cores() -> int:
    """Number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_working_folder() -> None:
    """Raise UserError if the working folder was removed: MKL aborts the process there."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working folder is gone; change to one that is there, and start again") from None


def home_folder() -> Path | None:
    """The user's home folder; None if neither HOME nor passwd gives one."""
    home = os.path.expanduser("~")
    return Path(home) if os.path.isabs(home) else None


def user_folder(variable: str, below_home: str) -> Path:
    """dydist's folder of one kind (XDG Base Directory Specification): below $`variable`, else below `below_home` in
    the home folder, else `temporary_folder`, which may raise OSError."""
    if chosen := os.environ.get(variable):
        return Path(chosen) / "dydist"
    home = home_folder()
    return temporary_folder() if home is None else home / below_home / "dydist"


def temporary_folder() -> Path:
    """This user's private folder below the temporary folder. Raises OSError if another user could write to it."""
    return private_folder(Path(tempfile.gettempdir()) / f"dydist-{os.getuid()}")


def try_to_write(folder: Path, size: int = 0) -> None:
    """Write `size` bytes to `folder`, or to its nearest existing parent, and remove them.

    A full disk still accepts empty files. Raises OSError if the bytes cannot be written.
    """
    while not os.path.lexists(folder):
        folder = folder.parent
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as probe:
        (Path(probe) / "probe").write_bytes(bytes(size))
