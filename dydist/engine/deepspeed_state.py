"""Converts ZeRO's partitions to full tensors and back, one parameter at a time.

The weights and the optimizer's fp32 copy are equal (DeepSpeed runs in fp32), so a tensor that is saved under one ZeRO
stage and loaded under another keeps every bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

MOMENTUM = "momentum_buffer"
HOST = torch.device("cpu")


class ShardedState:
    """Parameters and momentum of a model under ZeRO 1, 2 or 3. All methods are collective."""

    def __init__(self, model: nn.Module, zero_optimizer: Any, stage: int) -> None:
        self.model, self.stage = model, stage
        self.parameters = dict(model.named_parameters())
        inner = zero_optimizer.optimizer
        # DeepSpeed creates the state at the first step, but a checkpoint may be loaded before. Zeros are equivalent.
        parts = (
            zero_optimizer.fp32_partitioned_groups_flat
            if stage == 3
            else zero_optimizer.single_partition_of_fp32_groups
        )
        for flat in parts:
            inner.state[flat].setdefault(MOMENTUM, torch.zeros_like(flat, requires_grad=False))
        if stage < 3:
            zero_optimizer._lazy_init_hp_params_optimizer_state()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(plain name, full tensor in host memory) of each parameter and buffer, in the order of the state_dict."""
        for name, tensor in self.model.state_dict().items():
            parameter = self.parameters.get(name)
            if parameter is None or self.stage < 3:
                yield name, tensor.detach().to(HOST)
            elif parameter.requires_grad:
                yield name, safe_get_full_fp32_param(parameter).to(HOST)
            else:  # the optimizer has no copy of a frozen one
                with deepspeed.zero.GatheredParameters([parameter]):
                    whole = parameter.detach().to(HOST, copy=True)
                yield name, whole

    def momenta(self) -> Iterator[tuple[str, Tensor]]:
        """(`momentum.<parameter>`, full tensor in host memory) of each parameter."""
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                continue
            yield f"momentum.{name}", safe_get_full_optimizer_state(parameter, MOMENTUM).to(HOST)

    def load(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load full tensors. Raises RuntimeError, before anything is changed, if they do not fit the model."""
        self._check(model)
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if name not in self.parameters:
                    tensor.copy_(model[name])
            for name, parameter in self.parameters.items():
                self._set_weight(parameter, model[name])
                if (momentum := optimizer.get(f"momentum.{name}")) is not None:
                    self._set_momentum(parameter, momentum)

    def _set_weight(self, parameter: Any, value: Tensor) -> None:
        if self.stage < 3:
            parameter.copy_(value)
            if parameter.requires_grad:
                safe_set_full_fp32_param(parameter, value.to(parameter.device))
            return
        if parameter.requires_grad:
            safe_set_local_fp32_param(parameter, _own_part(parameter, value))
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.copy_(value)

    def _set_momentum(self, parameter: Any, value: Tensor) -> None:
        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), MOMENTUM)
        else:
            # safe_set_full_optimizer_state reads past the end where a tensor does not divide by the world size
            safe_set_local_optimizer_state(parameter, _own_part(parameter, value), MOMENTUM)

    def _check(self, model: Mapping[str, Tensor]) -> None:
        here = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        here |= {n: torch.Size(getattr(p, "ds_shape", p.shape)) for n, p in self.parameters.items()}
        there = {name: tensor.shape for name, tensor in model.items()}
        wrong = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
        if wrong:
            name = wrong[0]
            raise RuntimeError(
                f"{len(wrong)} tensors differ, first {name}: {_shape(there, name)} in the checkpoint, "
                f"{_shape(here, name)} in the network"
            )


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This process's ZeRO-3 partition of `value`, padded with zeros."""
    size = parameter.ds_tensor.ds_numel
    start = size * dist.get_rank()
    part = torch.zeros(size, dtype=torch.float32)
    own = value.reshape(-1)[start : start + size]
    part[: own.numel()] = own
    return part


def _shape(shapes: Mapping[str, torch.Size], name: str) -> str:
    return str(tuple(shapes[name])) if name in shapes else "missing"
