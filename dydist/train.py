"""One process of a training run: reads the configuration, builds the run, trains, and returns an exit code.

    accelerate launch dydist/train.py --config launch/recipes/cifar10-small.yaml --data.root data

In a program of one's own, which is started in the same way, `train` does the same (docs/python.md); this module can be
called in its place: `dydist.train("quickstart", model=make)`.

Exit codes: 0 done; 75 stopped early and saved (run it again); 2 wrong configuration or input; 1 any other failure.
`accelerate launch` turns every code but 0 into 1.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run by path: the package's folder must not shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dydist.config import Config
from dydist.config.reader import build, read_given, to_dict, values_of
from dydist.config.rules import check_config
from dydist.errors import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_STOPPED,
    EXIT_USAGE,
    FailedError,
    StopRequestedError,
    UserError,
)
from dydist.machine import check_working_folder
from dydist.process.end import prepare_streams, run_to_end
from dydist.process.launcher import Process, check_rendezvous, has_launcher, join_step
from dydist.process.launcher_settings import apply_launcher_settings
from dydist.process.report import ProcessReport, job_end
from dydist.process.stop import StopRequest, ignore_signals, stop_with_parent
from dydist.text import display
from dydist.user_function import name_of, passing, refuse_while_imported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dydist.engine import Engine

    Watch = Callable[[Any], Engine]
    Network = Callable[..., nn.Module] | nn.Module
    Split = tuple[Any, ...]
    Images = Callable[..., Split] | Mapping[str, Split]
    Loss = Callable[[Tensor, Tensor], Tensor]

DESCRIPTION = "DYDIST_DESCRIPTION"
"""Environment variable of `dydist submit`: a file to which `train` writes what it would train, in place of training."""


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    arguments: Sequence[str] = (),
    *,
    model: Network | None = None,
    dataset: Images | None = None,
    loss: Loss | None = None,
) -> Path:
    """Train in this process, as `dydist/train.py` does, and return the run's folder once the run is done.

    Every process of the run calls it with the same values; `accelerate launch`, torchrun, srun or `dydist submit`
    starts them. The same call resumes the run.

    Args:
        config: A recipe's path or name, a mapping ({"optim": {"lr": 0.1}} or {"optim.lr": 0.1}), or a `Config`.
        arguments: Flags over it, such as `sys.argv[1:]`; `--config FILE` replaces `config`.
        model: A function (num_classes, image_shape) → nn.Module, as `model.factory`, or a finished nn.Module. It takes
            images float32 [N, 3, H, W] and gives logits [N, classes].
        dataset: A function (split) → images, labels and, if they have names, classes, as `data.factory`, or a mapping
            with these for "train" and "test": uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], and whole numbers [N].
        loss: A function (logits float32 [n, classes], targets) → the loss of each image [n], or their mean []. Targets
            are labels int64 [n], or float32 [n, classes] with mixup and cutmix. It is called once for each shard.

    Raises:
        SystemExit: The run is not done, with its exit code: 75 stopped and saved, 2 wrong configuration or input,
            1 failed. What was wrong is on standard error.
        UserError: This call runs because a module is imported for a function in it; see docs/python.md.
    """
    refuse_while_imported()
    if in_program := sys.stdout is sys.__stdout__:  # not in a notebook, which must survive
        prepare_streams(ignore_stream_errors=True)
    passed = {"model.factory": model, "data.factory": _images(dataset), "train.loss": loss}
    names = {field: name_of(one) for field, one in passed.items() if one is not None}
    folder = Path()

    def read() -> dict[str, Any]:
        nonlocal folder
        given = read_given(arguments, values_of(config))
        for field, name in (names | ({"data.name": "factory"} if dataset is not None else {})).items():
            section, _, key = field.partition(".")
            given.setdefault(section, {})[key] = name
        folder = build(Config, given).run.folder
        return given

    if file := os.environ.get(DESCRIPTION):
        _describe(read, Path(file))
    with StopRequest() as stop, passing({(field, name): passed[field] for field, name in names.items()}):
        code = _run(read, stop)
    if code == EXIT_DONE:
        return folder
    if in_program and code == EXIT_STOPPED:
        ignore_signals()  # a second one must not turn 75 into the code of a killed process
    raise SystemExit(code)


def _images(dataset: Images | None) -> Callable[..., Split] | None:
    if not isinstance(dataset, Mapping):
        return dataset

    def arrays(split: str) -> Split:
        return dataset[split]

    return arrays


def _describe(read: Callable[[], dict[str, Any]], file: Path) -> None:
    """For `dydist submit`: write the configuration and the imported modules beside the program, and end the program."""
    try:
        config = build(Config, read())
    except UserError as error:
        display.tell(error)
        raise SystemExit(EXIT_USAGE) from None
    file.write_text(json.dumps({"config": to_dict(config), "modules": _beside_program()}), encoding="utf-8")
    raise SystemExit(EXIT_DONE)


def _beside_program() -> list[str]:
    """The top-level names of imported modules whose files lie beside the program; ./wandb may be a folder of data."""
    folder = Path(os.path.abspath(sys.modules["__main__"].__file__ or "")).parent
    found = set()
    for name, module in list(sys.modules.items()):
        file = Path(os.path.abspath(getattr(module, "__dict__", {}).get("__file__") or "/"))
        top = name.partition(".")[0]
        if file.is_relative_to(folder) and file.relative_to(folder).parts[0].partition(".")[0] == top:
            found.add(top)
    return sorted(found - {"__main__", "dydist"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process inside another program; returns the exit code."""
    with StopRequest() as stop:
        return run_process(sys.argv[1:] if arguments is None else arguments, stop)


def run_process(arguments: Sequence[str], stop: StopRequest, *, watch: Watch | None = None) -> int:
    """Run one process; returns its exit code. Process 0 prints a UserError in one line, and the exit code is 2.

    `watch`: gets the engine before the first step, and returns what is used in its place.
    """
    return _run(lambda: read_given(arguments), stop, watch)


def _run(read: Callable[[], dict[str, Any]], stop: StopRequest, watch: Watch | None = None) -> int:
    """Run one process with the values that `read` returns, nested and without defaults; returns its exit code."""
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
        given, notes = apply_launcher_settings(read(), os.environ)
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


class _CallableModule(ModuleType):
    """This module; calling it trains. `dydist.train` is the module once anything has imported it."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    stop = StopRequest().listen()  # before slow imports
    run_to_end(lambda: run_process(sys.argv[1:], stop), ignore_stream_errors=True)
