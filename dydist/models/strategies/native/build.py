"""Build the C++ kernels for this machine, once, and load them.

The library has a plain C interface and includes no header of torch, so it compiles in seconds and does not
depend on torch's ABI. It lies in the user's cache under a key of everything that it depends on: the
source, the compiler, its flags, this CPU's instruction sets. Several processes may come at once: one
builds, the others wait.
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
"""What is compiled; it includes the headers beside it."""
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"),
    # Products and sums may be contracted to multiply-adds; nothing is re-associated, so results stay reproducible.
    *("-ffp-contract=fast", "-fno-math-errno"),
)


def cache_folder() -> Path:
    """Where built libraries and measured choices are kept: $DYDIST_CACHE, or the user's cache folder.

    Raises OSError for a user without a home folder whose folder among the temporary ones is not theirs alone.
    """
    chosen = os.environ.get("DYDIST_CACHE")
    if chosen:
        return Path(chosen)
    return user_folder("XDG_CACHE_HOME", ".cache")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None where they cannot be built (`reason` says why). DYDIST_NATIVE=0 turns
    them off.
    """
    return _attempt()[0]


def identity() -> str:
    """Names the kernels that this process computes with: other kernels round differently."""
    if library() is None:
        return "torch"
    return f"C++ {_key(_compiler() or '')}"


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def reason() -> str:
    """Why there are no kernels; empty where there are."""
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
        try:  # A home that is missing, full or read-only must not cost the kernels.
            return ctypes.CDLL(str(build(compiler, temporary_folder()))), ""
        except (OSError, RuntimeError):
            return None, str(problem)


def build(compiler: str, cache: Path) -> Path:
    """Return the library for this source, compiler and CPU, building it under `cache` where it is not there yet.

    A library that someone else could have put there is not run, but replaced. Raises RuntimeError with the compiler's
    words where it fails, OSError where `cache` cannot be written or is not this user's own.
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
                draft.chmod(0o755)  # whatever the umask
                os.replace(draft, target)  # Whoever looks sees a whole library or none.
            finally:
                draft.unlink(missing_ok=True)  # broken off, by a signal too
    return target


def _compile(compiler: str, target: Path) -> None:
    # torch's own OpenMP runtime, so that its threads are used: two runtimes would fight over the cores.
    runtime = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    openmp = ["-fopenmp", *map(str, runtime[:1])]
    words = ""
    for extra in (openmp, []):  # Without OpenMP it computes the same, on one thread.
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
    """This CPU's name and instruction sets, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in told.items()}
    flags = found.get("flags", found.get("Features", ""))
    return f"{platform.machine()} {found.get('model name', '')} {flags}"
