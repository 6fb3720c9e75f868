"""What the benchmarks of speed share: how they set a process up, and how they show figures."""

from __future__ import annotations

from typing import Any

from dydist.text.display import console, show


def start(threads: int | None) -> None:
    """Set up as a training process is, before torch allocates memory; then threads."""
    from dydist.config import Config
    from dydist.run.assemble import prepare_environment

    prepare_environment(Config())
    import torch

    from dydist.engine.world import set_numerics

    set_numerics(Config())
    if threads is not None:
        torch.set_num_threads(threads)


def milliseconds(value: float) -> str:
    """Three digits, and whole ones of long times."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    import json

    print(json.dumps(value, indent=1))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A table, whole also where a terminal is narrow or output goes to a file."""
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console(width=160).print(table)


def print_machine(device: str = "cpu") -> None:
    """What the figures above depend on."""
    from dydist.bench.pairs import describe_machine

    show(", ".join(f"{name} {value}" for name, value in describe_machine(device).items()))
