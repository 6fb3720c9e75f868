"""`dydist tensorboard`."""

from __future__ import annotations

from typing import Annotated

import tyro

from dydist.config.types import FilePath, Index, Positive


def tensorboard(
    where: Annotated[tuple[FilePath, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER|URL ...")],
    *,
    port: Index = 6006,
    host: str = "localhost",
    every_s: Positive = 30.0,
    mirror: FilePath | None = None,
) -> int:
    """Open TensorBoard on run folders, log folders, or remote log folders (s3://, sftp://, …).

    A remote folder is mirrored to a local one every `every_s` seconds; only new segments are fetched. Ctrl-C ends it.

    Example: dydist tensorboard runs/seed-0 s3://bucket/logs/seed-1

    Args:
        where: Run folders, folders of runs, TensorBoard log folders, or URLs of remote log folders.
        port: Port of the page.
        host: Address it listens on; 0.0.0.0 for every interface.
        every_s: Seconds between updates of remote folders.
        mirror: Folder for the mirrored logs. Default: a temporary one, removed at the end.
    """
    from pathlib import Path

    from dydist.monitor.viewing import view

    return view(where, port=port, host=host, every_s=every_s, mirror=None if mirror is None else Path(mirror))


COMMANDS = {"tensorboard": tensorboard}
