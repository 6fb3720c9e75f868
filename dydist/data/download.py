"""Downloads a published archive with torchvision, which checks its MD5, and unpacks it atomically."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dydist.data.cifar import Layout, download_remedy
from dydist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Source:
    """The URL and the MD5 of an archive."""

    url: str
    md5: str


def published(layout: Layout) -> Source:
    """The source in torchvision's code."""
    from dydist.data.torchvision_shim import import_torchvision

    datasets = import_torchvision().datasets
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[layout.name]
    return Source(url=kind.url, md5=kind.tgz_md5)


def download(
    layout: Layout,
    root: Path,
    *,
    progress: Callable[[str], None],
    source: Source | None = None,
    timeout_s: float = 60.0,
) -> None:
    """Create `layout.folder` under `root`. Hold the data set's lock.

    An archive that is already in `root` is unpacked; otherwise it is downloaded, with a progress bar on standard
    error, and deleted after unpacking. `timeout_s`: seconds without data from the server before giving up.

    Raises UserError if there is no network or no space, or if the archive is not the published one.
    """
    from dydist.data.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.datasets.utils import check_integrity, download_url

    source = source or published(layout)

    given = root / layout.archive
    prefix = f".dydist-download-{layout.name}-{socket.gethostname()}-"
    try:
        for stale in root.glob(f"{prefix}*"):  # left by a killed process: this one holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        if given.is_file() and not check_integrity(given, source.md5):
            raise UserError(
                f"{given} is damaged: its MD5 is not {source.md5}. Move it away, then {download_remedy(layout, root)}"
            )
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as partial:
            archive = given
            if not given.is_file():
                progress(f"downloading {source.url} to {root} (about 170 MB)")
                with _socket_timeout(timeout_s), contextlib.redirect_stdout(io.StringIO()):
                    download_url(source.url, partial, filename=layout.archive, md5=source.md5)
                archive = Path(partial) / layout.archive
            progress(f"unpacking {archive}")
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
            (Path(partial) / layout.folder).rename(root / layout.folder)
    except (OSError, RuntimeError, tarfile.TarError) as error:  # a wrong MD5 is torchvision's RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.root: {root / layout.folder} is missing and could not be got ({reason}). Without network, "
            + download_remedy(layout, root)
        ) from None


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set a socket timeout: urllib, as torchvision calls it, has none, and waits forever if packets are dropped."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
