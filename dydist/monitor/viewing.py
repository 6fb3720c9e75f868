"""Runs TensorBoard on local and remote logs."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dydist.checkpoint import explain
from dydist.errors import UserError
from dydist.named_run import run_folder
from dydist.storage.places import check_place, is_url, local_path, open_filesystem
from dydist.text.display import tell
from dydist.text.redaction import redact_url, scrub

_ONE_LOG_S = 5
"""Seconds between TensorBoard's reloads of its folder."""
_PARTIAL = ".fetching"
"""Suffix of an incomplete file; without `tfevents`, since TensorBoard reads any file with that in its name."""


def view(where: Sequence[str], *, port: int, host: str, every_s: float, mirror: Path | None) -> int:
    """Run TensorBoard on all of `where` until it exits, or until Ctrl-C; returns its exit code."""
    if not where:
        raise UserError("tensorboard: nothing to show was given; name a run folder or a log folder's URL")
    for place in where:
        check_place(place, "tensorboard", step_folder=True)
    _check_address(host, port)
    if mirror is not None and mirror.exists() and not mirror.is_dir():
        raise UserError(f"--mirror: {mirror} is a file; give a folder, or leave it out")
    with ExitStack() as stack:
        if mirror is None:
            mirror = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dydist-tensorboard-")))
        remote = {url: mirror / folder_name(url) for url in where if is_url(url)}
        local = {
            name(local_path(place)): str(log_folder(Path(local_path(place))))
            for place in where
            if not is_url(place)
        }
        for url, folder in remote.items():
            fetch(url, folder)
        spec = ",".join(
            f"{n}:{folder}" for n, folder in [*local.items(), *((f.name, f) for f in remote.values())]
        )
        command = [sys.executable, "-m", "tensorboard.main", f"--logdir_spec={spec}", f"--port={port}"]
        command += [f"--host={host}", f"--reload_interval={_ONE_LOG_S}"]
        process = subprocess.Popen(command)
        stack.callback(_end, process)
        try:
            while True:
                try:
                    return process.wait(timeout=every_s if remote else None)
                except subprocess.TimeoutExpired:
                    for url, folder in remote.items():
                        _fetch_or_tell(url, folder)
        except KeyboardInterrupt:
            return 0


def _check_address(host: str, port: int) -> None:
    """Raise UserError if TensorBoard cannot listen there. Port 0 means any free port."""
    if port > 65_535:
        raise UserError(f"--port: {port} is not allowed; it must be at most 65535")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*address[:3]) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address[4])
            listener.listen()
    except OSError as error:
        raise UserError(
            f"--port: cannot listen on {host}:{port} ({error.strerror or error}); give another --port, 0 for any "
            "free one, or another --host"
        ) from error


def log_folder(place: Path) -> Path:
    """The TensorBoard log of a run folder; any other folder itself. Raises UserError if it does not exist."""
    place = run_folder(place)
    if not place.is_dir():
        raise UserError(f"{place}: there is no such folder; give a run folder, such as runs/quickstart")
    inside = place / "tensorboard"
    return inside if inside.is_dir() else place


def name(place: str) -> str:
    """TensorBoard's name for a local folder: the folder's name, or the run's for the log folder in a run folder."""
    path = Path(place).resolve()
    return path.parent.name if path.name == "tensorboard" else path.name


def folder_name(url: str) -> str:
    """A folder name for a URL, without its secrets, since it appears in TensorBoard's command line."""
    return "".join(
        c if c.isalnum() or c in "-_." else "-" for c in redact_url(url).split("://", 1)[1].strip("/")
    )


def fetch(url: str, folder: Path, **options: Any) -> int:
    """Mirror new files under `url` to `folder`; returns the number of files fetched.

    Segments do not change once written, but after a kill a longer one may replace the newest: files are compared by
    size. Raises UserError if the URL cannot be read.
    """
    try:
        store, root = open_filesystem(url, options, field="tensorboard")
        store.invalidate_cache()
        found = store.find(root, detail=True)
    except UserError:
        raise
    except Exception as error:  # of any store: all mean the same to the user
        raise UserError(
            f"{scrub(url)}: cannot be read ({explain(error)}); check the address and your access to it"
        ) from error
    if not found:
        raise UserError(
            f"{scrub(url)}: there is nothing there; give the monitor.logdir of a run that has started"
        )
    fetched = 0
    for path, info in found.items():
        target = inside(folder, str(path)[len(str(root).rstrip("/")) + 1 :])
        if target is None or (target.exists() and target.stat().st_size == info["size"]):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / _PARTIAL
        partial.unlink(missing_ok=True)
        store.get_file(path, str(partial))
        partial.replace(target)
        fetched += 1
    return fetched


def inside(folder: Path, name: str) -> Path | None:
    """The path of a store's object below `folder`; None if its name, or a link in the folder, leads outside.

    Names are untrusted: others may write to the bucket.
    """
    if "\\" in name or any(ord(c) < 32 for c in name):
        return None
    parts = name.split("/")
    if any(part in ("", ".", "..", _PARTIAL) for part in parts):
        return None
    target = folder.joinpath(*parts)
    below = [target, *target.parents][: len(parts)]
    return None if any(path.is_symlink() for path in below) else target


def _fetch_or_tell(url: str, folder: Path) -> None:
    try:
        fetch(url, folder)
    except UserError as error:
        tell(f"{error}; showing what was fetched before")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
