"""Base class of the engines: forward, backward, update and state.

Subclasses define how gradients and sums are reduced over the processes (`_reduce_gradients`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.loader import ShardGroup, StepBatch
from dydist.engine.ema import AveragedWeights
from dydist.engine.forward import shard_forward
from dydist.engine.loss import group_loss
from dydist.engine.loss_scale import LossScale
from dydist.engine.optimizer import make_optimizer, set_learning_rate
from dydist.engine.protocol import StepSums, Votes
from dydist.engine.world import World
from dydist.models import attach_statistics, set_temperature

HEADER = ("loss", "correct", "stop", "save", "data_hash")
"""The first elements of the small vector that is summed each step; the batch statistics follow."""
STOP, SAVE, DATA_HASH = 2, 3, 4
"""Indices of the votes and of the data hash in HEADER."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Trains a full model per process with SGD. Subclasses implement `_reduce_gradients`."""

    def __init__(self, config: Config, model: nn.Module, world: World) -> None:
        self.config, self.world, self.device = config, world, world.device
        self.model = model.to(self.device)
        if config.train.compile:
            self.model.compile(mode=config.train.compile_mode)
        self.forward = shard_forward(config, self.model)
        self.loss = group_loss(config, self.device)
        self.statistics = attach_statistics(self.model, self.device)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        self.optimizer = make_optimizer(config, self.model)
        if config.optim.momentum:  # SGD makes no buffer if fp16's first step overflows and is skipped
            for parameter in self.parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        start = LossScale()
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            init_scale=start.per_process(self._averaged_over),
            growth_interval=start.growth_interval,
            enabled=config.train.precision == "fp16",
        )
        self._autocast_dtype = AUTOCAST.get(config.train.precision)
        decay = config.train.ema_decay
        self.ema = None if decay is None else AveragedWeights(self.model, decay)
        self._norm: Tensor | None = None
        self._temperature: float | None = None

    @property
    def _averaged_over(self) -> int:
        """The number of processes over which gradients are averaged; each loss is multiplied by it."""
        return self.world.size

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """See `Engine.train_step`."""
        begin_step(self.config.train.compile_mode)
        if not self.model.training:
            self.model.train()
        self.set_temperature(temperature)
        small = self._reduce_gradients(batch, votes)
        self._update(lr)
        sums = small()
        filled = min(batch.count, self.config.parallel.shards)
        self.statistics.update_running(sums[len(HEADER) :] / filled)
        if self.ema is not None:
            self.ema.update()
        # a copy to pinned memory is asynchronous; otherwise the host would wait for the whole step
        header = torch.empty(len(HEADER), pin_memory=self.device.type == "cuda")
        header.copy_(sums[: len(HEADER)], non_blocking=True)
        ready = None
        if self.device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record()

        def read() -> StepSums:
            if ready is not None:
                ready.synchronize()
            loss, correct, stop, save, data_hash = header.tolist()
            return StepSums(loss, correct / batch.count, stop > 0, save > 0, int(data_hash))

        return read

    def set_temperature(self, temperature: float) -> None:
        """See `Engine.set_temperature`."""
        if temperature != self._temperature:  # usually constant for an epoch; walking all modules takes time
            set_temperature(self.model, temperature)
            self._temperature = temperature

    def grad_norm(self) -> float:
        """See `Engine.grad_norm`."""
        if self._norm is None:
            self._norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return float(self._norm)

    def model_state(self) -> dict[str, Tensor]:
        """See `Engine.model_state`."""
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine.optimizer_state`. Zeros before the first step."""
        return {
            f"momentum.{name}": self.optimizer.state[parameter].get(
                "momentum_buffer", torch.zeros_like(parameter)
            )
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }

    def extra_state(self) -> dict[str, float]:
        """See `Engine.extra_state`."""
        if not self.scaler.is_enabled():
            return {}
        state = self.scaler.state_dict()
        # the global scale is a power of two; dividing by the number of processes may have rounded it
        scale = 2.0 ** round(math.log2(state["scale"] * self._averaged_over))
        return {"scale": scale, "_growth_tracker": float(state["_growth_tracker"])}

    def averaged_state(self) -> dict[str, Tensor] | None:
        """See `Engine.averaged_state`."""
        return None if self.ema is None else self.ema.state

    def load(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        averaged: Mapping[str, Tensor],
        extra: Mapping[str, float],
    ) -> None:
        """See `Engine.load`."""
        self.model.load_state_dict(dict(model))
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if (momentum := optimizer.get(f"momentum.{name}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(self.device, copy=True)
        if self.scaler.is_enabled() and "scale" in extra:
            scale = LossScale(extra["scale"]).per_process(self._averaged_over)
            state = {"scale": scale, "_growth_tracker": int(extra["_growth_tracker"])}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **state})
        if self.ema is not None:
            self.ema.load(averaged or self.model.state_dict())

    def _header(self, batch: StepBatch, votes: Votes) -> Tensor:
        """This process's HEADER before its passes: no loss yet (float32, on the device)."""
        header = torch.zeros(len(HEADER), device=self.device)
        header[STOP], header[SAVE] = float(votes.stop), float(votes.save)
        header[DATA_HASH] = float(sum(group.data_hash for group in batch.groups))
        return header

    def _reduce_gradients(self, batch: StepBatch, votes: Votes) -> Callable[[], Tensor]:
        """Compute the global gradient in `.grad`; return a function that waits for the small vector's sum."""
        raise NotImplementedError

    def _backward(
        self, network: nn.Module, group: ShardGroup, *, step: int, count: int, factor: float
    ) -> Tensor:
        """Forward and backward of one group. Adds to `.grad` the gradient of `factor` × (sum of losses / count).

        Returns HEADER's `loss` and `correct` for the group (float32, on the device).
        """
        self.statistics.set_shards(len(group.shards))
        precision = self._autocast_dtype
        with torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            logits = self.forward(network, group, step)
        loss = self.loss(logits.float(), group) / count
        self._backpropagate(loss if factor == 1 else loss * factor)
        correct = (logits.argmax(1) == group.labels).sum()
        return torch.stack([loss.detach(), correct.float()])

    def _backpropagate(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _nothing(self, batch: StepBatch) -> ShardGroup:
        """A group to run with factor 0 on a process without images, so that it takes part in the collectives."""
        images = torch.zeros(2, *batch.image_shape, device=self.device)
        return ShardGroup((0,), images, torch.zeros(2, dtype=torch.int64, device=self.device), None, 0)

    def _update(self, lr: float) -> None:
        set_learning_rate(self.optimizer, lr)
        self._norm = None
        self.scaler.unscale_(self.optimizer)
        if self.config.train.clip_norm is not None:
            self._norm = nn.utils.clip_grad_norm_(self.parameters, self.config.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def begin_step(mode: str) -> None:
    """Mark the start of a step for CUDA graphs: outputs of earlier steps may be overwritten.

    `mode`: torch.compile's, or "off".
    """
    if mode not in ("off", "default"):  # the call imports torch's compiler
        torch.compiler.cudagraph_mark_step_begin()
