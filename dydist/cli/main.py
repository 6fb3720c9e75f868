"""The `dydist` command: its subcommands, and running one of them.

SECTIONS names the module of each. For jobs: `jobs/submission/submit.py` submits them, with the batch script of
`jobs/submission/sbatch.py`; `jobs/node/task.py` runs on each node; `jobs/decide.py` requeues or fails them, or
`jobs/batch_script.py` where no node could decide.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from dydist.config.types import nearest
from dydist.errors import EXIT_DONE, EXIT_ERROR, EXIT_USAGE, UserError
from dydist.machine import check_working_folder
from dydist.process.end import run_to_end
from dydist.text.display import show, tell

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Train": {
        "data prepare": ("data", "download, convert and verify a data set"),
        "check": ("check", "whether a network trains to the same bits on any number of processes"),
        "submit": ("jobs", "run a recipe as a job that is requeued after interruptions"),
        "sweep": ("sweep", "run a grid of values and seeds as a job array"),
    },
    "Jobs": {
        "status": ("jobs", "show the state of jobs and runs"),
        "logs": ("jobs", "show what a job's processes printed"),
        "cancel": ("jobs", "end jobs, with everything saved"),
        "preflight": ("preflight", "check this machine, or the nodes of a job"),
    },
    "Checkpoints": {
        "checkpoint list": ("checkpoint", "list the checkpoints of a run or a place"),
        "checkpoint verify": ("checkpoint", "read every byte and compare it with the manifests"),
        "checkpoint prune": ("checkpoint", "remove checkpoints that are not needed"),
        "checkpoint copy": ("checkpoint", "copy to another folder or store, verified"),
    },
    "Results": {
        "evaluate": ("evaluate", "measure a checkpoint on its data set"),
        "predict": ("predict", "classify pictures"),
        "export": ("export", "write a network as ONNX, torch.export or safetensors"),
        "compare": ("compare", "compare two runs, or tabulate many"),
        "report": ("report", "write an HTML report on runs"),
        "tensorboard": ("tensorboard", "open TensorBoard on runs, also remote ones"),
    },
    "Tools": {
        "files": ("files", "list the recipes and launch files that come with dydist"),
        "bench checkpoint": ("bench_checkpoint", "measure saving a checkpoint"),
        "bench conv": ("bench_conv", "measure ways to compute dynamic convolution"),
        "bench loader": ("bench_loader", "measure loading images"),
        "bench step": ("bench_conv", "measure a whole training step"),
    },
}
"""All subcommands, in sections by task: the module of dydist.cli whose COMMANDS has each, and its help line."""
Command = Callable[..., "int | None"]
_TRAINING = "accelerate launch -m dydist.train --config RECIPE"


def commands() -> dict[str, Command]:
    """Every subcommand's function by its name, e.g. `submit` or `checkpoint list`."""
    return {words: _function(words, module) for words, module, _ in _entries()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code. Without arguments: this process's own, which ends with the command."""
    if arguments is None:
        run_to_end(lambda: run_command(sys.argv[1:]))
    return run_command(arguments)


def run_command(arguments: Sequence[str]) -> int:
    """Run one subcommand; returns its exit code. Mistakes are one line on standard error and exit 2."""
    try:
        check_working_folder()
        code = parse(arguments)()
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # `evaluate` may run as several processes
            tell(error)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (text := _from_outside(error)) is None:
            raise
        tell(text)
        return EXIT_USAGE if isinstance(error, socket.gaierror | ValueError) else EXIT_ERROR
    return EXIT_DONE if code is None else int(code)


def _from_outside(error: Exception) -> str | None:
    """The message for an error of a disk, a store or a damaged checkpoint; None for a programming error."""
    from dydist.checkpoint import CheckpointError, explain, is_of_store

    if isinstance(error, socket.gaierror):
        return f"{explain(error)}; correct the host in the URL, or try again if name resolution is down"
    if isinstance(error, ValueError) and is_of_store(error):
        return f"{explain(error)}; correct the URL or --storage-options"
    if isinstance(error, BrokenPipeError):
        return None
    if (
        isinstance(error, OSError)
        and error.filename is not None
        and error.strerror
        and not is_of_store(error)
    ):
        return f"{error.filename2 or error.filename}: {error.strerror}; give another path, or mend this one"
    return explain(error) if isinstance(error, CheckpointError | OSError) or is_of_store(error) else None


def parse(arguments: Sequence[str]) -> Callable[[], int | None]:
    """The call for a command line, for the caller to make. Raises UserError.

    A subcommand's `--help` is printed by tyro, which raises SystemExit(0).
    """
    first, second = [*arguments, "", ""][:2]
    known = {words: module for words, module, _ in _entries()}
    groups = {words.split()[0] for words in known if " " in words}
    if first == "help" and second:
        return parse([*arguments[1:], "--help"])
    if first in ("", "-h", "--help", "help"):
        return lambda: show(overview(), lines=True)
    if first == "--version":
        from dydist import __version__

        return lambda: show(__version__)
    if first in groups and second in ("", "-h", "--help"):
        return lambda: show(overview(first), lines=True)
    words = f"{first} {second}" if first in groups else first
    if words not in known:
        raise UserError(_no_such(words, known))
    from dydist.cli.arguments import bind

    return bind(f"dydist {words}", _function(words, known[words]), arguments[len(words.split()) :])


def overview(group: str | None = None) -> str:
    """The help: one line per command, by section, or per command of a group such as `checkpoint`."""
    if group is not None:
        lines = [f"usage: dydist {group} COMMAND ...", ""]
        lines += [_line(words, text) for words, _, text in _entries() if words.startswith(f"{group} ")]
        return "\n".join([*lines, "", f"dydist {group} COMMAND --help explains a command and its options."])
    lines = ["usage: dydist COMMAND ..."]
    for section, entries in SECTIONS.items():
        lines += ["", section]
        if section == "Train":
            lines.append(f"  {_TRAINING}   train here; --help lists every setting")
        lines += [
            _line(words, text) for words, (_, text) in entries.items() if not words.startswith("bench ")
        ]
        if section == "Tools":
            lines.append(_line("bench ...", "measure parts of training; dydist bench --help lists them"))
    return "\n".join([*lines, "", "dydist COMMAND --help explains a command and its options."])


def _line(words: str, text: str) -> str:
    return f"  {words:<18}  {text}"


def _entries() -> Iterator[tuple[str, str, str]]:
    for entries in SECTIONS.values():
        for words, (module, text) in entries.items():
            yield words, module, text


def _function(words: str, module: str) -> Command:
    function: Command = importlib.import_module(f"dydist.cli.{module}").COMMANDS[words]
    return function


def _no_such(words: str, known: Collection[str]) -> str:
    first, _, second = words.partition(" ")
    if first == "train":
        return f"train: is no command of dydist; write {_TRAINING}, or dydist submit -- RECIPE"
    if second:
        near = nearest(second, [one.split()[1] for one in known if one.startswith(f"{first} ")])
        return f"{words}: there is no such command{near} (`dydist {first} --help` lists all)"
    whole = {one.split()[-1]: one for one in known} | {one.split()[0]: one.split()[0] for one in known}
    near = nearest(first, whole)
    for last, one in whole.items():
        near = f"; did you mean {one}?" if near == f"; did you mean {last}?" else near
    return f"{words}: there is no such command{near} (`dydist --help` lists all)"


if __name__ == "__main__":
    main()
