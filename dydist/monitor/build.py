"""Builds the configured monitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dydist.config import Config
from dydist.monitor.fanout import Monitors
from dydist.monitor.outputs.alerts import Alerts
from dydist.monitor.outputs.hardware import identity
from dydist.monitor.outputs.jsonlines import JsonLines
from dydist.monitor.outputs.progress import choose_progress
from dydist.monitor.outputs.prometheus import PrometheusFile
from dydist.monitor.outputs.status import StatusFile
from dydist.records import Monitor
from dydist.text.redaction import scrub


def build_terminal(config: Config, console: Console | None = None) -> Monitors:
    """The terminal monitors of process 0. They write no file, so they can be used before the run folder is claimed.

    `console`: where progress is shown; default standard output.
    """
    return Monitors([choose_progress(console or Console(), quiet=config.monitor.quiet)])


def build_monitors(
    config: Config,
    run_dir: Path,
    *,
    world_size: int,
    terminal: Monitors,
    trained_with: Mapping[str, Any],
    said: Sequence[tuple[str, str]] = (),
) -> Monitors:
    """All monitors of process 0, including `terminal`. Other processes use `NullMonitor`.

    Writes status.json at once, so call this only once the run holds its leases. `trained_with`: the configuration for
    the logs, nested by section and without secrets. `said`: text and level of notes already shown on the terminal.
    """
    from dydist.config.reader import flatten
    from dydist.monitor.outputs.tensorboard import TensorBoard, local_folder  # imports torch
    from dydist.text.strict import dump_yaml

    folder, url = local_folder(config.monitor.logdir, run_dir)
    everyone = Monitors()

    def tell(text: str, level: str) -> None:
        everyone.note(text, level=level)

    monitors: list[Monitor] = [
        JsonLines(
            run_dir, identity=identity(world_size)
        ),  # first: the others read the file that it truncates
        StatusFile(run_dir / "status.json", world_size=world_size),
        TensorBoard(
            folder,
            run_dir=run_dir,
            config_text=scrub(dump_yaml(trained_with)),
            hyper_parameters=flatten(trained_with),
            url=url,
            options=config.checkpoint.storage_options,
            tell=tell,
            world_size=world_size,
        ),
        Alerts(tell, folder=run_dir),
    ]
    monitors += trackers_of(config, run_dir, trained_with, tell)
    if config.monitor.prometheus_file is not None:
        monitors.append(PrometheusFile(Path(config.monitor.prometheus_file), config.run.name))
    for text, level in said:
        for monitor in monitors:
            monitor.note(text, level=level)
    everyone.add([*monitors, terminal])
    return everyone


def trackers_of(
    config: Config,
    run_dir: Path,
    trained_with: Mapping[str, Any],
    tell: Callable[[str, str], None],
    *,
    unfinished: bool = False,
) -> list[Monitor]:
    """The monitors of `monitor.trackers`, which send the TensorBoard log; `trained_with` as of `build_monitors`.

    `unfinished`: only of those trackers that do not have all of a run that is done.
    """
    if not config.monitor.trackers:
        return []
    from dydist.config.reader import flatten
    from dydist.monitor.outputs.tensorboard import local_folder
    from dydist.monitor.trackers.process import TrackerProcess
    from dydist.monitor.trackers.record import read_record

    trackers = [
        TrackerProcess(
            name,
            run=config.run.name,
            run_dir=run_dir,
            events=local_folder(config.monitor.logdir, run_dir)[0],
            config=flatten(trained_with),
            tell=tell,
        )
        for name in config.monitor.trackers
        if not (unfinished and read_record(run_dir, name).get("finished") == "done")
    ]
    for tracker in trackers:
        tracker.peers = trackers
    return list[Monitor](trackers)
