"""`parallel.reduce=fast`: one pass over all shards of a process, and DDP's overlapped all-reduce."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dydist.config import Config
from dydist.data.loader import StepBatch
from dydist.engine.core import TorchEngine
from dydist.engine.protocol import Votes
from dydist.engine.world import World


class DdpEngine(TorchEngine):
    """DistributedDataParallel over all processes; the bare model if there is one process."""

    def __init__(self, config: Config, model: nn.Module, world: World) -> None:
        super().__init__(config, model, world)
        self.network: Any = distribute(self.model, world) if world.size > 1 else self.model

    def _reduce_gradients(self, batch: StepBatch, votes: Votes) -> Callable[[], Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        self.statistics.zero()
        header = self._header(batch, votes)
        for number, group in enumerate(batch.groups, 1):
            last = number == len(batch.groups)
            with nullcontext() if last or self.world.size == 1 else self.network.no_sync():
                # DDP averages over processes; multiplying by the world size gives the sum of their parts of the mean
                header[:2] += self._backward(
                    self.network, group, step=batch.step, count=batch.count, factor=self._averaged_over
                )
        if (
            not batch.groups
        ):  # fewer images than processes in the last batch: take part in the all-reduce with zeros
            self._backward(self.network, self._nothing(batch), step=batch.step, count=1, factor=0.0)
            self.statistics.zero()
        small = torch.cat([header, self.statistics.flat])
        work = dist.all_reduce(small, async_op=True) if self.world.size > 1 else None

        def wait() -> Tensor:
            if work is not None:
                work.wait()
            return small

        return wait


def distribute(model: nn.Module, world: World) -> DistributedDataParallel:
    """DDP over all processes. Buffers are not synchronized: the engine averages batch statistics itself."""
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.13
    options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
    if world.device.type == "cuda":
        options["device_ids"] = [world.device.index]
    return DistributedDataParallel(model, **options)
