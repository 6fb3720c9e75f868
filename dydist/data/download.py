"""Downloading a published archive with torchvision, which checks its MD5 and unpacks it."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from dydist.data.cifar import Layout, how_to_get
from dydist.errors import UserError


def download(layout: Layout, root: Path, *, progress: Callable[[str], None]) -> None:
    """Put `layout.folder` under `root`, whole or not at all. Call it while holding the data set's lock.

    Raises UserError where there is no network, no space, or the archive is not the published one.
    """
    from dydist.torchvision_shim import import_torchvision

    datasets = import_torchvision().datasets
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[layout.name]
    progress(f"{layout.folder} is not under {root}: downloading {layout.archive} (about 170 MB)")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dydist-download-", dir=root) as partial:
            with contextlib.redirect_stdout(io.StringIO()):
                kind(partial, train=True, download=True)
            target = root / layout.folder
            if target.exists():
                shutil.rmtree(target)
            (Path(partial) / layout.folder).rename(target)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong MD5 is a RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.root: {root / layout.folder} is missing and the download failed ({reason}); "
            + how_to_get(layout, root)
        ) from None
