"""One process of a training run: read the configuration, build, run, exit code.

    accelerate launch dydist/train.py --config launch/recipes/cifar10-small.yaml --data.root data

Exit codes: 0 done, 75 stopped early and saved (run it again), 2 the configuration or the input is wrong,
1 anything else. `accelerate launch` itself turns every code but 0 into 1.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path: the package's own folder must not shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dydist import display
from dydist.config import Config
from dydist.config_reader import build, read_given
from dydist.errors import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_STOPPED,
    EXIT_USAGE,
    FailedError,
    StopRequestedError,
    UserError,
)
from dydist.launcher import Process, check_meeting, has_launcher, join_step
from dydist.launcher_settings import obey_launcher
from dydist.machine import check_working_folder
from dydist.process_end import run_to_end
from dydist.process_report import ProcessReport, job_end, job_name
from dydist.stop import StopRequest, stop_with_parent

if TYPE_CHECKING:
    from dydist.engine import World
    from dydist.monitor import Monitors, NullMonitor
    from dydist.records import Monitor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process within a program that goes on; returns its exit code."""
    with StopRequest() as stop:
        return run_process(sys.argv[1:] if arguments is None else arguments, stop)


def run_process(arguments: Sequence[str], stop: StopRequest) -> int:
    """Run one process; returns its exit code. UserError becomes one line on process 0 and exit 2."""
    try:
        check_working_folder()
        if has_launcher(os.environ):
            stop_with_parent()
        join_step(os.environ)
        report = ProcessReport.from_environment()
        job_end(os.environ)
    except UserError as error:
        display.tell(error)
        return EXIT_USAGE
    report.start()
    try:
        given, notes = obey_launcher(read_given(arguments), os.environ)
        config: Config = build(Config, given)
        config.validate(world_size=Process.from_environment(os.environ).world_size)
        check_meeting(os.environ)
        if report.rank == 0 and not config.monitor.quiet:
            for note in notes:
                display.show(note)
        code = run(config, report, stop)
    except UserError as error:
        report.finish(EXIT_USAGE, str(error))
        if os.environ.get("LOCAL_RANK", "0") == "0" or not ended_by_launcher(stop):
            where = "" if report.rank == 0 else f"rank {report.rank} on {socket.gethostname()}: "
            display.tell(f"{where}{error}")
        return EXIT_USAGE
    except StopRequestedError:
        if report.rank == 0:
            display.show(f"dydist: {stop.name} before a step was begun; nothing is lost: start it again")
        report.finish(EXIT_STOPPED)
        return EXIT_STOPPED
    except FailedError as error:
        if report.rank == 0:  # all processes raise it alike
            display.tell(error)
        report.finish(EXIT_ERROR, str(error))
        return EXIT_ERROR
    except Exception as error:
        report.finish(EXIT_ERROR, f"{type(error).__name__}: {error}")
        raise
    report.finish(code)
    return code


def ended_by_launcher(stop: StopRequest, within_s: float = 10) -> bool:
    """Wait for the launcher to end this process, as it does when the first process of the node fails.

    A wrong input is told once a node, by that first process. It may still be importing: were this process to fail
    before it, the launcher would kill it before it could tell. Returns False where there is no launcher to wait
    for, or where the first process goes on: then this process has to tell.
    """
    if not has_launcher(os.environ) and "SLURM_STEP_ID" not in os.environ:
        return False
    deadline = time.monotonic() + within_s
    while not stop.requested and time.monotonic() < deadline:
        time.sleep(0.05)
    return stop.requested


def run(config: Config, report: ProcessReport, stop: StopRequest) -> int:
    """Everything between a valid configuration and the exit code."""
    prepare_environment(config)
    from dydist.checkpoint import refuse_unusable
    from dydist.data import open_dataset
    from dydist.data.order import Order
    from dydist.engine.deepspeed_config import check_launcher

    check_launcher(config, os.environ)
    if config.parallel.engine == "deepspeed":
        from dydist.engine.deepspeed_import import import_deepspeed

        import_deepspeed(config)

    def tell(text: str) -> None:
        if report.rank == 0 and not config.monitor.quiet:
            display.show(text)

    with (
        stop.at_once()
    ):  # nothing is begun: a download, a conversion, or another process's that is waited for
        if config.checkpoint.url is not None:
            refuse_unusable(config.checkpoint.url, config.checkpoint.storage_options)
        train_set = open_dataset(config.data, "train", progress=tell)
        test_set = open_dataset(config.data, "test", progress=tell)
    order = Order(
        seed=config.seed,
        size=len(train_set),
        batch_size=config.train.batch_size,
        shards=config.parallel.shards,
        drop_last=config.data.drop_last,
    )

    from dydist.engine import Loop, build_engine, start_world, total_steps
    from dydist.engine.precision import slow_precision
    from dydist.models import dynamic_layers
    from dydist.models.strategies.native import build
    from dydist.monitor.probe import RunProbe
    from dydist.run_end import Ending, tell_already_done, with_way_back
    from dydist.run_folder import Provenance, make_run_folder, public_values
    from dydist.run_strategies import settle_strategies
    from dydist.session import Session, build_model_for

    began = time.monotonic()
    world = start_world(config)
    run_dir = make_run_folder(config, world)
    end = Ending(config=config, run_dir=run_dir, total_steps=total_steps(config, order), began=began)
    session = monitor = loop = None
    try:
        model = build_model_for(config, train_set)
        layers = dynamic_layers(model, train_set.images.shape[1:])
        engine = build_engine(config, model, world)
        terminal = terminal_of(config, world)
        session = Session(
            config,
            engine,
            world,
            run_dir,
            train_set,
            order,
            monitor=terminal,
            stop_requested=lambda: stop.requested,
            job=job_name(os.environ),
            job_end=job_end(os.environ),
        )
        progress = session.restore()
        report.stands_at(progress.step)
        to_do = progress.step < end.total_steps
        if not to_do and progress.last_accuracy is not None:
            session.close()
            if world.rank == 0:
                tell_already_done(run_dir, progress, end, terminal)
            world.close()
            return EXIT_DONE
        if to_do:
            session.record_claim()
        values = public_values(config) if to_do else session.trained_with
        monitor = monitors_of(config, run_dir, world, terminal, values, session.said)
        session.report_to(monitor)
        session.strategies = settle_strategies(
            config, engine.model, layers, world, monitor, recorded=session.strategies
        )
        if (slow := slow_precision(config.train.precision, world.device.type, build.cpu())) is not None:
            monitor.note(slow, level="warning")
        probe = RunProbe(config, engine.model, world, test_set=test_set, run_dir=run_dir, monitor=monitor)
        provenance = None
        if to_do and world.rank == 0:
            warn = partial(monitor.note, level="warning")
            provenance = Provenance(run_dir, values, start=progress.step, tell=warn)

        def finished(step: int) -> None:
            report.heartbeat(step)
            if provenance is not None:
                provenance.reached(step)

        loop = Loop(
            config,
            engine,
            world,
            order,
            train_set,
            test_set,
            monitor,
            session.save,
            probe=probe,
            stop_requested=lambda: stop.requested or session.lost,
            heartbeat=finished,
        )
        progress, done = loop.run(progress)
        probe.close()
        session.close()
    except BaseException as error:
        if session is not None:
            session.close()
        if session is None or monitor is None or world.rank != 0:
            raise
        told = with_way_back(error, run_dir, session.held_steps, loop)
        monitor.close(end("failed", step=report.step, message=str(told)))
        if told is not error:
            raise told from error
        raise
    monitor.close(end("done" if done else "stopped", step=progress.step, progress=progress))
    world.close()
    return EXIT_DONE if done else EXIT_STOPPED


def terminal_of(config: Config, world: World) -> Monitors | NullMonitor:
    """What is shown, on process 0."""
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
    """Everything that is written and shown, on process 0, once the place is known to be this run's."""
    from dydist.monitor import NullMonitor, build_monitors

    if isinstance(terminal, NullMonitor):
        return terminal
    return build_monitors(
        config, run_dir, world_size=world.size, terminal=terminal, trained_with=values, said=said
    )


def prepare_environment(config: Config) -> None:
    """Set what libraries read once, when they are first imported."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages, which cost a quarter to fault in
    if config.parallel.reduce == "exact":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS: deterministic with several streams
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # MKL: the same bits whatever the memory's alignment


if __name__ == "__main__":
    stop = StopRequest().listen()  # before anything slow is imported
    run_to_end(lambda: run_process(sys.argv[1:], stop), goes_on=True)
