"""One process of a training run: reads the configuration, builds the run, trains, and returns an exit code.

    accelerate launch dydist/train.py --config launch/recipes/cifar10-small.yaml --data.root data

Exit codes: 0 done; 75 stopped early and saved (run it again); 2 wrong configuration or input; 1 any other failure.
`accelerate launch` turns every code but 0 into 1.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path: the package's folder must not shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dydist.config import Config
from dydist.config.reader import build, read_given
from dydist.config.rules import check_config
from dydist.errors import (
    EXIT_ERROR,
    EXIT_STOPPED,
    EXIT_USAGE,
    FailedError,
    StopRequestedError,
    UserError,
)
from dydist.machine import check_working_folder
from dydist.process.end import run_to_end
from dydist.process.launcher import Process, check_rendezvous, has_launcher, join_step
from dydist.process.launcher_settings import apply_launcher_settings
from dydist.process.report import ProcessReport, job_end
from dydist.process.stop import StopRequest, stop_with_parent
from dydist.text import display

if TYPE_CHECKING:
    from dydist.engine import Engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process inside another program; returns the exit code."""
    with StopRequest() as stop:
        return run_process(sys.argv[1:] if arguments is None else arguments, stop)


def run_process(
    arguments: Sequence[str], stop: StopRequest, *, watch: Callable[[Any], Engine] | None = None
) -> int:
    """Run one process; returns its exit code. Process 0 prints a UserError in one line, and the exit code is 2.

    `watch`: gets the engine before the first step, and returns what is used in its place.
    """
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
        given, notes = apply_launcher_settings(read_given(arguments), os.environ)
        config: Config = build(Config, given)
        check_config(config, world_size=Process.from_environment(os.environ).world_size)
        check_rendezvous(os.environ)
        if report.rank == 0 and not config.monitor.quiet:
            for note in notes:
                display.show(note)
        from dydist.run.assemble import run

        code = run(config, report, stop, watch=watch)
    except UserError as error:
        report.finish(EXIT_USAGE, str(error))
        if os.environ.get("LOCAL_RANK", "0") == "0" or (launched() and not ended_by_launcher(stop)):
            where = "" if report.rank == 0 else f"rank {report.rank} on {socket.gethostname()}: "
            display.tell(f"{where}{error}")
        return EXIT_USAGE
    except StopRequestedError:
        if report.rank == 0:
            display.show(f"dydist: {stop.name} before a step was begun; nothing is lost: start it again")
        report.finish(EXIT_STOPPED)
        return EXIT_STOPPED
    except FailedError as error:
        if report.rank == 0:  # all processes raise the same error
            display.tell(error)
        report.finish(EXIT_ERROR, str(error))
        return EXIT_ERROR
    except Exception as error:
        report.finish(EXIT_ERROR, f"{type(error).__name__}: {error}")
        raise
    report.finish(code)
    return code


def launched() -> bool:
    """Whether a launcher ends this process when another one on the node fails."""
    return has_launcher(os.environ) or "SLURM_STEP_ID" in os.environ


def ended_by_launcher(stop: StopRequest, within_s: float = 10) -> bool:
    """Wait for the launcher to end this process, as it does when the first process of the node fails.

    The node's first process reports wrong input, but it may still be importing. If this process failed first, the
    launcher would kill the first process before its report. Returns False if the first process continues; then this
    process must report. Not called without a launcher: then only the first process reports.
    """
    deadline = time.monotonic() + within_s
    while not stop.requested and time.monotonic() < deadline:
        time.sleep(0.05)
    return stop.requested


if __name__ == "__main__":
    stop = StopRequest().listen()  # before slow imports
    run_to_end(lambda: run_process(sys.argv[1:], stop), ignore_stream_errors=True)
