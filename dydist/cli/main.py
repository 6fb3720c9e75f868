"""The `dydist` command: `dydist GROUP … --help`. Each group of subcommands is a file of plain functions."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from tyro.extras import SubcommandApp

from dydist.errors import EXIT_DONE, EXIT_USAGE, UserError
from dydist.machine import check_working_folder
from dydist.process.end import run_to_end
from dydist.text.display import tell

GROUPS = (
    "bench_checkpoint",
    "bench_conv",
    "bench_engines",
    "bench_exact",
    "bench_loader",
    "bench_monitor",
    "bench_scaling",
    "checkpoint",
    "compare",
    "data",
    "evaluate",
    "export",
    "files",
    "jobs",
    "predict",
    "preflight",
    "report",
    "sweep",
    "tensorboard",
)
"""Modules of dydist.cli. Each has COMMANDS: the words of a subcommand → its function."""
Command = Callable[..., "int | None"]
DESCRIPTION = """Jobs, checkpoints and figures of dydist runs.

One run itself is `accelerate launch dydist/train.py --help`.

Example: dydist checkpoint list runs/quickstart/checkpoints"""


def commands() -> dict[str, Command]:
    """Every subcommand by its words, e.g. `submit` or `checkpoint list`."""
    found: dict[str, Command] = {}
    for group in GROUPS:
        found |= importlib.import_module(f"dydist.cli.{group}").COMMANDS
    return found


def build_app(functions: Mapping[str, Command]) -> SubcommandApp:
    """The tree of subcommands: each function by its words."""
    app = SubcommandApp()
    groups: dict[str, SubcommandApp] = {}
    for words, function in functions.items():
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            groups[group] = SubcommandApp()
            app.command(groups[group], name=group, help=f"{group.capitalize()} commands.")
        home = groups[group] if group else app
        home.command(name=name)(function)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code. Without arguments: this process's own, which ends with the command."""
    if arguments is None:
        run_to_end(lambda: run_command(sys.argv[1:]))
    return run_command(arguments)


def run_command(arguments: Sequence[str]) -> int:
    """Run one subcommand; returns its exit code. Mistakes are one line on standard error and exit 2."""
    try:
        check_working_folder()
        code = build_app(commands()).cli(prog="dydist", description=DESCRIPTION, args=arguments)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # `evaluate` may run as several processes
            tell(error)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    return EXIT_DONE if code is None else int(code)


if __name__ == "__main__":
    main()
