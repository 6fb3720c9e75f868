"""`parallel.engine=deepspeed`: the same step as with DDP; ZeRO 0 to 3 partitions momentum, gradients and weights.

A process computes its shards in one pass, interleaved, each with its own batch-norm statistics, as with DDP
(engine/ddp.py). ZeRO: Rajbhandari et al., SC 2020, arXiv:1910.02054.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.loader import StepBatch
from dydist.data.order import rank_shards
from dydist.engine.core import TorchEngine
from dydist.engine.deepspeed_config import deepspeed_config
from dydist.engine.deepspeed_import import import_deepspeed
from dydist.engine.loss_scale import LossScale
from dydist.engine.optimizer import set_learning_rate
from dydist.engine.protocol import StepSums, Votes
from dydist.engine.world import World


class DeepSpeedEngine(TorchEngine):
    """Trains one model with DeepSpeed. `parallel.zero`: what is partitioned over the processes."""

    def __init__(self, config: Config, model: nn.Module, world: World) -> None:
        super().__init__(config, model, world)
        self.stage = config.parallel.zero
        if self._autocast_dtype is not None:  # DeepSpeed disables an outer autocast
            autocast = torch.autocast(self.device.type, dtype=self._autocast_dtype)
            self.model.forward = autocast(self.model.forward)
            self._autocast_dtype = None
        if not dist.is_initialized():  # one process, started without a launcher
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self.network, *_ = import_deepspeed(config).initialize(
            model=self.model,
            optimizer=self.optimizer,
            config=deepspeed_config(config, world.size, os.environ),
            dist_init_required=False,
        )
        from dydist.engine.deepspeed_state import ShardedState

        self.sharded = ShardedState(self.model, self.network.optimizer, self.stage) if self.stage else None
        self.loss_scale = LossScale() if self.stage and config.train.precision == "fp16" else None
        self._skipped = False

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """See `Engine.train_step`."""
        read = super().train_step(batch, lr=lr, temperature=temperature, votes=votes)
        if not self._skipped or self.loss_scale is not None:
            return read
        # without loss scaling, a gradient that is not finite is not an overflow to skip, but ends the run
        return lambda: replace(read(), loss=math.nan)

    def grad_norm(self) -> float:
        """See `Engine.grad_norm`."""
        return super().grad_norm() if self.sharded is None else float(self.network.get_global_grad_norm())

    def model_state(self) -> dict[str, Tensor]:
        """See `Engine.model_state`. With ZeRO, in host memory."""
        return super().model_state() if self.sharded is None else dict(self.sharded.weights())

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine.optimizer_state`. With ZeRO, in host memory."""
        return super().optimizer_state() if self.sharded is None else dict(self.sharded.momenta())

    def extra_state(self) -> dict[str, float]:
        """See `Engine.extra_state`."""
        if self.loss_scale is None:
            return super().extra_state()
        return {"scale": self.loss_scale.scale, "_growth_tracker": float(self.loss_scale.growth)}

    def load(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        averaged: Mapping[str, Tensor],
        extra: Mapping[str, float],
    ) -> None:
        """See `Engine.load`."""
        if self.sharded is None:
            super().load(model, optimizer, averaged, extra)
            return
        self.sharded.load(model, optimizer)
        if self.loss_scale is not None and "scale" in extra:
            self.loss_scale.scale = extra["scale"]
            self.loss_scale.growth = int(extra["_growth_tracker"])
        if self.ema is not None:
            self.ema.load(averaged or self.model.state_dict())

    def _reduce_gradients(self, batch: StepBatch, votes: Votes) -> Callable[[], Tensor]:
        if self.sharded is None:  # ZeRO's step clears its gradients itself
            self.optimizer.zero_grad(set_to_none=True)
        self.statistics.zero()
        header = self._header(batch, votes)
        if self.loss_scale is not None:
            self.network.optimizer.override_loss_scale(self.loss_scale.per_process(self._averaged_over))
        passes = pass_count(batch.count, self.config.parallel.shards, self.world.size)
        for number in range(passes):
            self.network.set_gradient_accumulation_boundary(number == passes - 1)
            if number < len(batch.groups):
                # DeepSpeed averages over processes; multiplying by the world size gives the sum of their parts
                header[:2] += self._backward(
                    self.network,
                    batch.groups[number],
                    step=batch.step,
                    count=batch.count,
                    factor=self._averaged_over,
                )
            else:  # a small last batch: every process runs as many passes, since ZeRO-3 gathers weights in each
                before = self.statistics.flat.clone()
                self._backward(self.network, self._nothing(batch), step=batch.step, count=1, factor=0.0)
                self.statistics.flat.copy_(before)
        small = torch.cat([header, self.statistics.flat])
        if self.world.size > 1:
            dist.all_reduce(small)
        return lambda: small

    def _backpropagate(self, loss: Tensor) -> None:
        self.network.backward(loss if self.sharded else self.scaler.scale(loss), scale_wrt_gas=False)

    def _update(self, lr: float) -> None:
        if self.sharded is None:  # full gradients are in `.grad`: the update is DDP's
            super()._update(lr)
            return
        set_learning_rate(self.optimizer, lr)
        self.network.step()
        self._skipped = bool(self.network.optimizer.overflow)
        if self.loss_scale is not None:
            self.loss_scale.update(self._skipped)


def pass_count(count: int, shards: int, world_size: int) -> int:
    """The largest number of passes of any process for a global batch of `count` images.

    A process runs one pass per distinct shard size (data/loader.py): one, except for a small last batch.
    """
    sizes = [(shard + 1) * count // shards - shard * count // shards for shard in range(shards)]
    return max(
        len({sizes[shard] for shard in rank_shards(rank, world_size, shards)} - {0})
        for rank in range(world_size)
    )
