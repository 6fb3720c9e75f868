"""Shared by the benchmarks: options, setting up the process, and printing results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from dydist.config.types import Count, Positive
from dydist.text.display import console, show

JsonFlag = Annotated[bool, tyro.conf.arg(name="json")]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The measured network and its batch."""

    stem: Literal["cifar", "strided", "imagenet"] = "cifar"
    """cifar, strided or imagenet; images have 32 pixels."""
    batch_size: Count = 64
    """Images of a step."""
    width: Positive = 1.0
    """Multiplies every channel count."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where and in which precision it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses the GPU if there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or autocast to bf16 or fp16."""
    threads: Count | None = None
    """CPU threads. Default: torch's."""


def start(threads: int | None) -> None:
    """Set up the process as for training, before torch allocates memory, and its threads."""
    from dydist.config import Config
    from dydist.run.assemble import prepare_environment

    prepare_environment(Config())
    import torch

    from dydist.engine.world import set_numerics

    set_numerics(Config())
    if threads is not None:
        torch.set_num_threads(threads)


def milliseconds(value: float) -> str:
    """Milliseconds with three digits, or as an integer for long times."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    import json

    print(json.dumps(value, indent=1))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table at full width, also on narrow terminals and to files."""
    from rich.table import Table

    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console(width=160).print(table)


def print_machine(device: str = "cpu") -> None:
    """Print the hardware and versions of the measurement."""
    from dydist.bench.pairs import describe_machine

    show(", ".join(f"{name} {value}" for name, value in describe_machine(device).items()))
