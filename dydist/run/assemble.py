"""Builds the parts of a run and connects them.

Torch is imported on first use, so that a mistake in the configuration is reported without delay.

Where to find what a run does:

- order of images: `data/order.py`; augmentation: `data/loader.py`
- data sets: listed in `config/data_sets.py`, opened by `data/dataset.py`; converted images: `data/cache.py`, in the
  folders of `data/cache_places.py`
- learning rate and temperature: `schedules.py`, called by `engine/loop.py`; applied to groups of parameters
  (`optim.kernel_lr`) by `engine/optimizer.py`
- signals: `process/stop.py`; `engine/loop.py` takes the processes' votes, stops and saves
- saves: `run/session.py`, committed by `checkpoint/_save.py`, written by `storage/local.py` or `storage/remote.py`
- resuming: `checkpoint/_restore.py`, which checks files with `checkpoint/_catalog.py`
- stores: `storage/opening.py`; the protocols of URLs: `storage/places.py`
- the network: `models/resnet.py`, or the user's own by `models/factory.py`
- strategies of dynamic convolutions: `models/strategies/dispatch.py`, chosen by `models/choice.py`
- sums of exact runs: `engine/exact.py`, in the order of `engine/tree.py`
- TensorBoard: `monitor/outputs/tensorboard.py`, whose files `monitor/outputs/eventlog.py` writes
- trackers: `monitor/trackers/sender.py`, in a process that `monitor/trackers/process.py` starts
- exit codes: `errors.py`, returned by `train.py`
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydist.config import Config
from dydist.config.rules import names_source
from dydist.errors import EXIT_DONE, EXIT_STOPPED
from dydist.process.launcher import Process
from dydist.process.report import Job, ProcessReport
from dydist.process.stop import StopRequest
from dydist.storage.places import is_url
from dydist.text.display import show

if TYPE_CHECKING:
    from dydist.engine import Engine, World
    from dydist.monitor import Monitors, NullMonitor
    from dydist.records import Monitor


def run(
    config: Config,
    report: ProcessReport,
    stop: StopRequest,
    *,
    watch: Callable[[Any], Engine] | None = None,
) -> int:
    """Run a valid configuration; returns the exit code. `watch`: see `train.run_process`."""
    prepare_environment(config)
    from dydist.data.splits import open_splits
    from dydist.models.strategies import native

    if config.parallel.engine == "deepspeed":
        from dydist.engine.deepspeed_import import import_deepspeed

        import_deepspeed(config)

    def tell(text: str) -> None:
        if report.rank == 0 and not config.monitor.quiet:
            show(text)

    with stop.at_once():  # a signal may interrupt a download or a conversion, since training has not begun
        check_places(config)
        splits = open_splits(config, tell)
        native.library()  # compile now, or wait for the process that does, rather than at the first step

    from dydist.engine import Callbacks, Loop, build_engine, start_world, total_steps
    from dydist.engine.precision import slow_precision
    from dydist.models import dynamic_layers
    from dydist.monitor.probes.probe import RunProbe
    from dydist.run.end import SummaryBuilder, tell_already_done, with_rollback_advice
    from dydist.run.folder import Provenance, make_run_folder, public_values
    from dydist.run.own_network import examine_network
    from dydist.run.session import Session, build_model_for
    from dydist.run.strategies import assign_strategies

    began = time.monotonic()
    world = start_world(config, lambda: stop.requested)
    run_dir = make_run_folder(config, world)
    end = SummaryBuilder(
        config=config, run_dir=run_dir, total_steps=total_steps(config, splits.order), began=began
    )
    session = monitor = loop = None
    try:
        model = build_model_for(config, splits.train)
        doubts = examine_network(config, model, splits.train, world)
        layers = dynamic_layers(model, splits.train.images.shape[1:])
        engine = build_engine(config, model, world)
        engine = engine if watch is None else watch(engine)
        terminal = terminal_of(config, world)
        session = Session(
            config,
            engine,
            world,
            run_dir,
            splits,
            monitor=terminal,
            stop_requested=lambda: stop.requested,
            job=Job.from_environment(os.environ),
        )
        progress = session.restore()
        report.set_step(progress.step)
        to_do = progress.step < end.total_steps
        if not to_do and progress.last_accuracy is not None:
            session.close()
            if world.rank == 0:
                tell_already_done(run_dir, progress, end, terminal, session.trained_with)
            world.close()
            return EXIT_DONE
        if to_do:
            session.record_claim()
        values = public_values(config) if to_do else session.trained_with
        monitor = monitors_of(config, run_dir, world, terminal, values, session.said)
        session.report_to(monitor)
        for doubt in doubts:
            monitor.note(doubt, level="warning")
        session.strategies = assign_strategies(
            config, engine.model, layers, world, monitor, recorded=session.strategies
        )
        if (
            slow := slow_precision(config.train.precision, world.device.type, native.build.cpu())
        ) is not None:
            monitor.note(slow, level="warning")
        probe = RunProbe(
            config, engine.model, world, evaluated=splits.evaluated, run_dir=run_dir, monitor=monitor
        )
        provenance = None
        if to_do and world.rank == 0:
            warn = partial(monitor.note, level="warning")
            provenance = Provenance(run_dir, values, start=progress.step, tell=warn)

        def finished(step: int) -> None:
            report.heartbeat(step)
            if provenance is not None:
                provenance.reached(step)

        callbacks = Callbacks(
            monitor=monitor,
            probe=probe,
            save=session.save,
            stop_requested=lambda: stop.requested or session.lost,
            heartbeat=finished,
        )
        loop = Loop(config, engine, world, splits, callbacks)
        progress, done = loop.run(progress)
        probe.close()
        session.close()
    except BaseException as error:
        if session is not None:
            session.close()
        if session is None or monitor is None or world.rank != 0:
            raise
        told = with_rollback_advice(error, run_dir, session.saved_steps, loop)
        monitor.close(end("failed", step=report.step, message=str(told)))
        if told is not error:
            raise told from error
        raise
    monitor.close(end("done" if done else "stopped", step=progress.step, progress=progress))
    world.close()
    return EXIT_DONE if done else EXIT_STOPPED


def check_places(config: Config) -> None:
    """Raise UserError if waiting cannot make a folder or a URL of the configuration usable.

    Every process checks: under srun, the other processes would otherwise wait for the one that ended. Only the
    processes of the first node, where process 0 writes, check folders. The log's URL and another run's checkpoint
    are checked only at a run's first start, since later starts can continue without them.
    """
    from dydist.checkpoint import check_store, refuse_missing_source
    from dydist.run.folder import RECORD, check_run_folder

    options, run_dir = config.checkpoint.storage_options, config.run.folder
    process = Process.from_environment(os.environ)
    first_node = process.rank == process.local_rank
    if first_node:
        check_run_folder(config)
    if config.checkpoint.url is not None:
        check_store(config.checkpoint.url, options)
    if (run_dir / RECORD).exists():
        return
    logs, source = config.monitor.logdir, config.checkpoint.resume
    if logs is not None and (first_node or is_url(logs)):
        check_store(logs, options, field="monitor.logdir")
    if names_source(source) and (first_node or is_url(source)):
        refuse_missing_source(source, config.checkpoint.url or str(run_dir / "checkpoints"), options)


def terminal_of(config: Config, world: World) -> Monitors | NullMonitor:
    """The terminal monitors, on process 0."""
    from dydist.monitor import NullMonitor, build_terminal

    return build_terminal(config) if world.rank == 0 else NullMonitor()


def monitors_of(
    config: Config,
    run_dir: Path,
    world: World,
    terminal: Monitors | NullMonitor,
    values: Mapping[str, Any],
    said: Sequence[tuple[str, str]],
) -> Monitor:
    """All monitors, on process 0. Called once this run holds the leases."""
    from dydist.monitor import NullMonitor, build_monitors

    if isinstance(terminal, NullMonitor):
        return terminal
    return build_monitors(
        config, run_dir, world_size=world.size, terminal=terminal, trained_with=values, said=said
    )


def prepare_environment(config: Config) -> None:
    """Set the variables that libraries read when they are first imported."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages, which cause fewer page faults
    if config.parallel.reduce == "exact":
        # cuBLAS: deterministic with several streams
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # MKL: the same bits regardless of alignment
