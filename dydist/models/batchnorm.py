"""Batch norm with statistics per shard, independent of processes and of the number of shards per pass.

A shard's images are normalised by that shard's mean and variance. The forward pass does not update running
statistics: each layer adds its shards' statistics to one tensor for the whole network, which the engine averages over
all shards of all processes, once per step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dydist.errors import UserError

ALIGNED = 4
"""float32 values in 16 bytes."""


class ShardBatchNorm(_BatchNorm):
    """`nn.BatchNorm2d` and its like, with their state_dict, until `attach_statistics` attaches a buffer for statistics.

    Then a training forward takes x [n·s, C, …] with `shards` = s shards interleaved (row i·s + j is image i of shard
    j), normalises each shard separately, and adds Σ_shards mean and Σ_shards unbiased variance to the buffer.

    `counts`: whether it counts its shards, too, since it may run more or less than once in a pass.
    """

    shards: int = 1
    counts: bool = False
    _mean_sum: Tensor | None = None
    _var_sum: Tensor | None = None
    _count: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, …] → the same shape."""
        if not self.training or self._mean_sum is None or self._var_sum is None:
            return super().forward(x)
        shards = self.shards
        images, channels, *places = x.shape
        if images // shards * math.prod(places) == 1:
            return self._single_value(x)
        # Each channel of each shard becomes a channel. The view is free if x is contiguous.
        view = x.reshape(images // shards, shards * channels, *places) if shards > 1 else x
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        # With momentum 1, new buffers receive exactly this batch's mean and unbiased variance.
        mean = torch.zeros(shards * channels, dtype=dtype, device=x.device)
        var = torch.zeros_like(mean)
        if self.affine and shards > 1:
            weight, bias = weight.repeat(shards), bias.repeat(shards)
        out = F.batch_norm(view, mean, var, weight, bias, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            self._mean_sum.add_(mean.view(shards, channels).sum(0))
            self._var_sum.add_(var.view(shards, channels).sum(0))
            if self._count is not None:
                self._count.add_(shards)
        if shards > 1 and x.dim() == 4 and not x.is_contiguous():
            return out.view(x.shape).contiguous(memory_format=torch.channels_last)
        return out.view(x.shape) if shards > 1 else out

    def _single_value(self, x: Tensor) -> Tensor:
        """Forward for one value per channel, which has no variance: it equals its mean, so the output is the bias.

        Adds the running statistics instead of the batch's, so that averaging leaves them unchanged.
        """
        out = x - x  # Zero, with zero gradient, as for any batch norm of one value.
        if self.affine:
            of_channels = (-1, *(1 for _ in x.shape[2:]))
            weight, bias = self.weight.view(of_channels), self.bias.view(of_channels)
            out = out * weight.to(x.dtype) + bias.to(x.dtype)
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self._mean_sum.add_(self.running_mean, alpha=self.shards)  # type: ignore[union-attr]
                self._var_sum.add_(self.running_var, alpha=self.shards)  # type: ignore[union-attr]
                if self._count is not None:
                    self._count.add_(self.shards)
        return out


class ShardBatchNorm1d(ShardBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` by shard."""


class ShardBatchNorm2d(ShardBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` by shard."""


class ShardBatchNorm3d(ShardBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` by shard."""


class ShardSyncBatchNorm(ShardBatchNorm):
    """`nn.SyncBatchNorm`, also by shard: statistics over processes would depend on the number of processes.

    Not a subclass: DistributedDataParallel refuses an `nn.SyncBatchNorm` on a CPU.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {x.dim()}D input)")


_BY_SHARD: dict[type[_BatchNorm], type[ShardBatchNorm]] = {
    nn.BatchNorm1d: ShardBatchNorm1d,
    nn.BatchNorm2d: ShardBatchNorm2d,
    nn.BatchNorm3d: ShardBatchNorm3d,
    nn.SyncBatchNorm: ShardSyncBatchNorm,
}


def batch_norm_by_shard(model: nn.Module) -> nn.Module:
    """Convert every batch norm of `model` to one by shard, in place, and return `model`. Keeps parameters and hooks.

    A subclass with a `forward` of its own, such as timm's BatchNormAct2d, keeps it: its statistics are taken in a call
    per shard, for which it must use `running_mean`, `running_var` and `momentum` as torch's do. Its forward raises
    UserError if a shard has one value per channel, of which torch's batch norms take no statistics.
    """
    for part in model.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, ShardBatchNorm):
            kind = type(part)
            part.__class__ = _BY_SHARD.get(kind) or _own_by_shard(kind)  # type: ignore[arg-type]
        if isinstance(part, ShardBatchNorm):
            part.counts = True
    return model


@functools.cache
def _own_by_shard(kind: type[_BatchNorm]) -> type[ShardBatchNorm]:
    """A subclass of a third-party batch norm that calls its forward once per shard."""

    def forward(self: ShardBatchNorm, x: Tensor) -> Tensor:
        if not self.training or self._mean_sum is None or self._var_sum is None:
            return kind.forward(self, x)
        if x.numel() == self.shards * x.shape[1]:
            raise UserError(
                f"parallel.shards: a {kind.__name__} gets one value per channel from a shard of one image: it has no "
                "variance; use a larger train.batch_size, or fewer shards"
            )
        kept = self.running_mean, self.running_var, self.num_batches_tracked, self.momentum
        parts = []
        try:
            for part in x.unflatten(0, (-1, self.shards)).unbind(1):
                # with momentum 1, new buffers receive exactly this batch's mean and unbiased variance
                self.running_mean, self.running_var = (
                    torch.zeros_like(one) for one in (self._mean_sum, self._var_sum)
                )
                self.num_batches_tracked, self.momentum = torch.zeros((), dtype=torch.long), 1.0
                parts.append(kind.forward(self, part))
                with torch.no_grad():
                    self._mean_sum.add_(self.running_mean)
                    self._var_sum.add_(self.running_var)
                    if self._count is not None:
                        self._count.add_(1)
        finally:
            self.running_mean, self.running_var, self.num_batches_tracked, self.momentum = kept
        return torch.stack(parts, 1).flatten(0, 1)

    return type(f"Shard{kind.__name__}", (ShardBatchNorm, kind), {"forward": forward, "__module__": __name__})


@dataclass(frozen=True)
class ShardStatistics:
    """Sums over shards of each batch-norm layer's mean and variance, in one flat float32 tensor.

    `flat` contains, layer by layer, C means and then C variances, and in a layer that counts the number of its shards,
    each aligned to 16 bytes (CUDA graphs need that for tensors they write in place). A step calls `zero()`, forward
    passes, sums `flat` over processes, divides it by the number of shards of the global batch, and calls
    `update_running(average)`.
    """

    layers: Sequence[ShardBatchNorm]
    flat: Tensor

    def zero(self) -> None:
        """Reset all sums to zero."""
        self.flat.zero_()

    def set_shards(self, shards: int) -> None:
        """Set the number of shards interleaved in the next passes."""
        for layer in self.layers:
            layer.shards = shards

    @torch.no_grad()
    def update_running(self, average: Tensor) -> None:
        """running ← (1 - m)·running + m·average with each layer's momentum m; counts one batch.

        `average` has the layout of `flat`. A layer with momentum None keeps a cumulative average. One that counts
        takes the average over its own shards; if it ran for none, such as a frozen one, it stays as it is.
        """
        tracked = [
            (layer, views)
            for layer, views in zip(self.layers, _views(average, self.layers), strict=True)
            if _tracks(layer)
        ]
        each_once = [(layer, mean, var) for layer, (mean, var, count) in tracked if count is None]
        if each_once:
            torch._foreach_add_(_batches(each_once), 1)
            running, fresh, momenta = _parts(each_once)
            torch._foreach_mul_(running, [1.0 - momentum for momentum in momenta])
            torch._foreach_add_(running, torch._foreach_mul(fresh, momenta))
        counting = [(layer, mean, var) for layer, (mean, var, count) in tracked if count is not None]
        if counting:
            self._update_counting(counting, [count for _, (_, _, count) in tracked if count is not None])

    def _update_counting(
        self, layers: Sequence[tuple[ShardBatchNorm, Tensor, Tensor]], counts: Sequence[Tensor]
    ) -> None:
        """`update_running` of layers that count. Their number does not change the number of kernel launches."""
        count = torch.cat(list(counts))
        called: Sequence[Tensor] = (count > 0).long().unbind()
        torch._foreach_add_(_batches(layers), called)  # type: ignore[arg-type]
        running, fresh, momenta = _parts(layers)
        sizes = [one.numel() for one in running]
        of_each = count[self._which]
        before = torch.cat(running)
        # as above for a count of 1: dividing by it keeps every bit
        fresh = list((torch.cat(fresh) / of_each).split(sizes))
        torch._foreach_mul_(running, [1.0 - momentum for momentum in momenta])
        torch._foreach_add_(running, torch._foreach_mul(fresh, momenta))
        after = torch.where(of_each > 0, torch.cat(running), before)
        torch._foreach_copy_(running, list(after.split(sizes)))

    @cached_property
    def _which(self) -> Tensor:
        """For each value of the running statistics of layers that count: that layer's number among them."""
        sizes = [2 * layer.num_features for layer in self.layers if layer.counts and _tracks(layer)]
        numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return numbers.to(self.flat.device)

    def detach(self) -> None:
        """Turn every layer back into a plain batch norm."""
        for layer in self.layers:
            layer._mean_sum = layer._var_sum = layer._count = None
            layer.shards = 1


def attach_statistics(model: nn.Module, device: torch.device | str) -> ShardStatistics:
    """Attach every `ShardBatchNorm` of `model` to one flat tensor of zeros on `device`."""
    layers = [part for part in model.modules() if isinstance(part, ShardBatchNorm)]
    size = sum(2 * _room(layer.num_features) + ALIGNED * layer.counts for layer in layers)
    flat = torch.zeros(size, dtype=torch.float32, device=device)
    for layer, (mean, var, count) in zip(layers, _views(flat, layers), strict=True):
        layer._mean_sum, layer._var_sum, layer._count = mean, var, count
    return ShardStatistics(layers, flat)


def _views(flat: Tensor, layers: Sequence[ShardBatchNorm]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """(mean, variance, number of shards [1] or None) of each layer within `flat`."""
    sizes = [
        size for layer in layers for size in (_room(layer.num_features),) * 2 + (ALIGNED,) * layer.counts
    ]
    parts = iter(flat.split(sizes) if layers else ())
    return [
        (
            next(parts)[: layer.num_features],
            next(parts)[: layer.num_features],
            next(parts)[:1] if layer.counts else None,
        )
        for layer in layers
    ]


def _tracks(layer: ShardBatchNorm) -> bool:
    return (
        layer.track_running_stats
        and layer.running_mean is not None
        and layer.running_var is not None
        and layer.num_batches_tracked is not None
    )


def _batches(layers: Sequence[tuple[ShardBatchNorm, Tensor, Tensor]]) -> list[Tensor]:
    """The counters of batches, int64 scalars."""
    found = [layer.num_batches_tracked for layer, *_ in layers]
    return [one for one in found if one is not None]


def _parts(
    layers: Sequence[tuple[ShardBatchNorm, Tensor, Tensor]],
) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """Running statistics, this batch's and momenta, with two entries for each layer: mean, variance."""
    running: list[Tensor] = []
    fresh: list[Tensor] = []
    momenta: list[float] = []
    for layer, mean, var in layers:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        momentum = layer.momentum
        if momentum is None:
            momentum = 1.0 / max(1, int(layer.num_batches_tracked))  # type: ignore[arg-type]
        momenta += [momentum] * 2
        running += [layer.running_mean, layer.running_var]
        fresh += [mean.to(layer.running_mean.dtype), var.to(layer.running_var.dtype)]
    return running, fresh, momenta


def _room(values: int) -> int:
    """Number of float32 values reserved for `values`: a multiple of ALIGNED."""
    return -(-values // ALIGNED) * ALIGNED
