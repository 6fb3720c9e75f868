"""Builds the C++ kernels once for this machine, and loads them.

The library has a C interface and includes no torch header, so it compiles in seconds and does not depend on torch's
ABI. It is in the user's cache, under a key of all its inputs: source, compiler, flags, and this CPU's instruction
sets. If several processes need it, one builds and the others wait.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from filelock import FileLock

from dydist.machine import temporary_folder, user_folder
from dydist.private_files import is_own_file, own_folder

SOURCE = Path(__file__).with_name("kernels.cpp")
"""The source file; it includes the headers in its folder."""
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"),
    # Fused multiply-adds are allowed, but no reassociation, so results are reproducible.
    *("-ffp-contract=fast", "-fno-math-errno"),
)


def cache_folder() -> Path:
    """The folder of built libraries and measured times: $DYDIST_CACHE, or the user's cache folder.

    Raises OSError if the user has no home folder and the temporary folder's substitute is not private.
    """
    chosen = os.environ.get("DYDIST_CACHE")
    if chosen:
        return Path(chosen)
    return user_folder("XDG_CACHE_HOME", ".cache")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None if they cannot be built (see `reason`). DYDIST_NATIVE=0 disables them."""
    return _attempt()[0]


def identity() -> str:
    """An identifier of this process's kernels: other kernels round differently."""
    if library() is None:
        return "torch"
    return f"C++ {_key(_compiler() or '')}"


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def reason() -> str:
    """Why there are no kernels; empty if there are."""
    return _attempt()[1]


@functools.cache
def _attempt() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("DYDIST_NATIVE") == "0":
        return None, "DYDIST_NATIVE=0"
    if (compiler := _compiler()) is None:
        return None, "no C++ compiler (set CXX, or install g++)"
    try:
        return ctypes.CDLL(str(build(compiler, cache_folder()))), ""
    except (OSError, RuntimeError) as problem:
        try:  # A missing, full or read-only home must not disable the kernels.
            return ctypes.CDLL(str(build(compiler, temporary_folder()))), ""
        except (OSError, RuntimeError):
            return None, str(problem)


def build(compiler: str, cache: Path) -> Path:
    """Return the library for this source, compiler and CPU; build it in `cache` if it does not exist.

    A library that another user could have written is replaced, not loaded. Raises RuntimeError with the compiler's
    output if it fails, OSError if `cache` cannot be written or belongs to another user.
    """
    folder = own_folder(cache, f"native/{_key(compiler)}")
    target = folder / "kernels.so"
    if is_own_file(target):
        return target
    with FileLock(str(folder / "lock")):
        if not is_own_file(target):
            draft = folder / f"kernels-{os.getpid()}.so"
            try:
                _compile(compiler, draft)
                draft.chmod(0o755)  # regardless of the umask
                os.replace(draft, target)  # Atomic: readers see a complete library or none.
            finally:
                draft.unlink(missing_ok=True)  # interrupted, also by a signal
    return target


def _compile(compiler: str, target: Path) -> None:
    # torch's OpenMP runtime and threads: two runtimes would compete for the cores.
    runtime = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    openmp = ["-fopenmp", *map(str, runtime[:1])]
    words = ""
    for extra in (openmp, []):  # Without OpenMP it runs on one thread.
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(target), str(SOURCE), *extra],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode == 0:
            return
        words = done.stderr.strip()
    raise RuntimeError(f"{compiler} failed: {words[-2000:]}")


def _key(compiler: str) -> str:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, encoding="utf-8", errors="replace"
    ).stdout
    sources = [path.read_text(encoding="utf-8") for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    parts = [*sources, version, " ".join(FLAGS), cpu(), torch.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def cpu() -> str:
    """This CPU's name and instruction sets, as far as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in told.items()}
    flags = found.get("flags", found.get("Features", ""))
    return f"{platform.machine()} {found.get('model name', '')} {flags}"
