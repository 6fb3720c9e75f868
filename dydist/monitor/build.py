"""The monitors that a configuration asks for."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

from rich.console import Console

from dydist.config import Config
from dydist.monitor.fanout import Monitors
from dydist.monitor.jsonlines import JsonLines
from dydist.monitor.progress import choose_progress
from dydist.monitor.status import StatusFile
from dydist.records import Monitor


def build_monitors(
    config: Config, run_dir: Path, *, world_size: int, console: Console | None = None
) -> Monitors:
    """Everything that process 0 writes and shows. The other processes take `NullMonitor`.

    Writes status.json at once, so build it only after the run's place is known to be free. `console`: where
    progress goes; default standard output.
    """
    from dydist.monitor.tensorboard import TensorBoard  # imports torch

    config_path = run_dir / "config.yaml"
    identity = {"host": socket.gethostname(), "world_size": world_size, "python": platform.python_version()}
    monitors: list[Monitor] = [
        JsonLines(run_dir, identity=identity),  # first: the others read what it has cut
        StatusFile(run_dir / "status.json", world_size=world_size),
        TensorBoard(
            config.monitor.logdir or str(run_dir / "tensorboard"),
            config_text=config_path.read_text() if config_path.exists() else "",
        ),
        choose_progress(console or Console(), quiet=config.monitor.quiet),
    ]
    return Monitors(monitors)
