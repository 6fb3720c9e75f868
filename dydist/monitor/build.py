"""The monitors that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dydist.config import Config
from dydist.monitor.alerts import Alerts
from dydist.monitor.fanout import Monitors
from dydist.monitor.hardware import identity
from dydist.monitor.jsonlines import JsonLines
from dydist.monitor.progress import choose_progress
from dydist.monitor.prometheus import PrometheusFile
from dydist.monitor.status import StatusFile
from dydist.records import Monitor
from dydist.redaction import redacted


def build_monitors(
    config: Config, run_dir: Path, *, world_size: int, console: Console | None = None
) -> Monitors:
    """Everything that process 0 writes and shows. The other processes take `NullMonitor`.

    Writes status.json at once, so build it only after the run's place is known to be free. `console`: where
    progress goes; default standard output.
    """
    from dydist.config_reader import flatten, to_dict
    from dydist.monitor.tensorboard import TensorBoard, local_folder  # imports torch

    folder, url = local_folder(config.monitor.logdir, run_dir)
    config_path = run_dir / "config.yaml"
    everyone = Monitors()

    def tell(text: str, level: str) -> None:
        everyone.note(text, level=level)

    monitors: list[Monitor] = [
        JsonLines(run_dir, identity=identity(world_size)),  # first: the others read what it has cut
        StatusFile(run_dir / "status.json", world_size=world_size),
        TensorBoard(
            folder,
            run_dir=run_dir,
            config_text=config_path.read_text() if config_path.exists() else "",
            hyper_parameters=flatten(to_dict(redacted(config))),
            url=url,
            options=config.checkpoint.storage_options,
            tell=tell,
            world_size=world_size,
        ),
        choose_progress(console or Console(), quiet=config.monitor.quiet),
        Alerts(tell, folder=run_dir),
    ]
    if config.monitor.prometheus_file is not None:
        monitors.append(PrometheusFile(Path(config.monitor.prometheus_file), config.run.name))
    everyone.add(monitors)
    return everyone
