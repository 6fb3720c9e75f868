"""How an engine calls the network on a group of shards, and makes its dropout a function of (seed, step, shard)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.loader import ShardGroup
from dydist.data.pinned import pinned
from dydist.randomness import generator

ShardForward = Callable[[nn.Module, ShardGroup, int], Tensor]
"""(network, group, step) → logits [n·s, classes] of the group's images."""


def shard_forward(config: Config, model: nn.Module) -> ShardForward:
    """The call of dydist's own network or of the user's. Masks that the user's network draws are keyed."""
    if config.model.factory is not None:
        return _keyed(config.seed) if getattr(model, "draws_masks", True) else _plain
    return _with_mask(config, model)


def _with_mask(config: Config, model: nn.Module) -> ShardForward:
    share = config.model.dropout

    def forward(network: nn.Module, group: ShardGroup, step: int) -> Tensor:
        mask = None
        if share > 0:
            size = (len(group.labels) // len(group.shards), int(model.features))  # type: ignore[arg-type]
            draws = [generator(config.seed, "dropout", step, shard).random(size) for shard in group.shards]
            device = group.images.device
            kept = pinned(np.stack(draws, axis=1).reshape(-1, size[1]) >= share, device)
            mask = kept.to(device, non_blocking=True).float().div_(1 - share)
        logits: Tensor = network(group.images, dropout_mask=mask)
        return logits

    return forward


def _keyed(seed: int) -> ShardForward:
    from dydist.models.draws import KeyedDraws

    def forward(network: nn.Module, group: ShardGroup, step: int) -> Tensor:
        with KeyedDraws(seed, step, group.shards, len(group.labels)):
            logits: Tensor = network(group.images)
        return logits

    return forward


def _plain(network: nn.Module, group: ShardGroup, step: int) -> Tensor:
    logits: Tensor = network(group.images)
    return logits
