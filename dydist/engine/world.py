"""The processes of a run: world size, rank, device, and collectives on Python objects.

Accelerate initializes the processes. This module checks the result against the launcher's variables, since Accelerate
ignores some mistakes silently (docs/engines.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from dydist.config import Config
from dydist.engine.rendezvous import rendezvous
from dydist.errors import UserError
from dydist.process.end import close_process_group, has_closed_process_group
from dydist.process.launcher import Process, check_rendezvous

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among `size`."""

    rank: int
    size: int
    device: torch.device

    def broadcast(self, value: T) -> T:
        """Process 0's value, on every process (a collective; any picklable value)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self._object_device())
        return box[0]

    def first(self, make: Callable[[], T]) -> T:
        """The result of `make` on process 0, on every process (a collective)."""
        return self.broadcast(make() if self.rank == 0 else cast(T, None))

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, on every process (a collective)."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Destroy the process group."""
        close_process_group()

    def _object_device(self) -> torch.device:
        return self.device if self.device.type == "cuda" else torch.device("cpu")


def start_world(config: Config, stop_requested: Callable[[], bool] = lambda: False) -> World:
    """Set up this process: device, threads, determinism, process group.

    Raises StopRequestedError on all processes if one of them receives a signal before all have started.
    """
    parallel = config.parallel
    if parallel.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "parallel.device: cuda is not there; use cpu or auto, or check the driver with nvidia-smi"
        )
    use_cpu = parallel.device == "cpu" or not torch.cuda.is_available()
    check_rendezvous(os.environ)
    process = Process.from_environment(os.environ)
    expected = process.world_size
    if expected > 1 and has_closed_process_group():
        raise UserError(
            f"dydist.train: this program has trained once on {expected} processes, and cannot join them again; start a "
            "program for each run"
        )
    group = InitProcessGroupKwargs(timeout=timedelta(seconds=parallel.timeout_s))
    store = None
    if expected > 1:
        group.backend = "gloo" if use_cpu else "nccl"
        if not use_cpu and torch.cuda.device_count() == 1:
            os.environ["LOCAL_RANK"] = (
                "0"  # srun --gpus-per-task=1: each process sees only its own GPU, as device 0
            )
        os.environ.setdefault(
            "OMP_NUM_THREADS", str(thread_count(config) or 1)
        )  # else Accelerate warns and chooses one
        # keep it until the process group is set up
        store = rendezvous(process, timeout_s=parallel.timeout_s, stop_requested=stop_requested)
    elif "MASTER_ADDR" not in os.environ:
        os.environ.pop("LOCAL_RANK", None)  # else Accelerate would set up a process group, without an address
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="no",  # the engine uses autocast itself, so that all engines round the same
        kwargs_handlers=[group],
    )
    del store
    set_numerics(config)
    if accelerator.num_processes != expected:
        raise UserError(
            f"accelerate launch: {expected} processes were started but Accelerate sees {accelerator.num_processes}; "
            "on CPU start them with `accelerate launch --multi_gpu --num_processes N` "
            "or launch/cpu_2.yaml, and with DeepSpeed use one of launch/deepspeed_*.yaml"
        )
    return World(rank=accelerator.process_index, size=accelerator.num_processes, device=accelerator.device)


def thread_count(config: Config) -> int | None:
    """CPU threads of this process; None leaves torch's default (a single process uses every core)."""
    if config.parallel.threads is not None:
        return config.parallel.threads
    if config.parallel.reduce == "exact":
        return 1  # more threads on fewer processes would change the order of sums
    local = Process.from_environment(os.environ).local_world_size
    return max(1, (os.cpu_count() or 1) // local) if local > 1 else None


def set_numerics(config: Config) -> None:
    """Set threads and kernels: reproducible on any world size with reduce=exact, else fast."""
    exact = config.parallel.reduce == "exact"
    if (threads := thread_count(config)) is not None:
        torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled() != exact:  # setting it imports torch's compiler: a second
        torch.use_deterministic_algorithms(exact)
    # filling new memory takes a pass over every buffer, and no value of it is read
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.deterministic = exact
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cudnn.allow_tf32 = not exact
