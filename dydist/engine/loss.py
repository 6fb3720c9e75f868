"""The training loss: cross-entropy, or a function of the user's own (`train.loss`), called once for each shard."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.loader import ShardGroup
from dydist.errors import UserError
from dydist.user_function import describe_error, load_function

GroupLoss = Callable[[Tensor, ShardGroup], Tensor]
"""(logits float32 [n·s, classes], group) → sum of the losses of the group's images, a scalar."""


def group_loss(config: Config, device: torch.device) -> GroupLoss:
    """The loss of `train.loss`, or cross-entropy."""
    if config.train.loss is None:
        smoothing = config.train.label_smoothing

        def cross_entropy(logits: Tensor, group: ShardGroup) -> Tensor:
            targets = group.labels if group.targets is None else group.targets
            return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)

        return cross_entropy
    function = _load(config, device)
    mixed = mixes_targets(config)

    def by_shard(logits: Tensor, group: ShardGroup) -> Tensor:
        targets = group.labels if group.targets is None else group.targets
        if mixed and group.targets is None:  # a process without images in a small last batch
            targets = F.one_hot(targets, logits.shape[1]).float()
        shards = len(group.shards)
        sums = []
        for shard in range(shards):
            images = slice(shard, None, shards)
            value = function(logits[images], targets[images])
            sums.append(value.sum() if value.ndim else value * (len(logits) // shards))
        return torch.stack(sums).sum()

    return by_shard


def mixes_targets(config: Config) -> bool:
    """Whether targets are shares of the classes, float32 [n, classes], and not labels, int64 [n]."""
    return config.data.mixup > 0 or config.data.cutmix > 0


def examine_loss(config: Config, classes: int, device: torch.device) -> None:
    """Call `train.loss` on made-up logits on `device`. Raises UserError if it cannot be trained with, or reproduced."""
    if config.train.loss is None:
        return
    function, who = _load(config, device), f"train.loss: {config.train.loss}"
    if isinstance(function, nn.Module) and any(one.requires_grad for one in function.parameters()):
        raise UserError(
            f"{who} has parameters to train, which the optimizer does not see; make them part of the network"
        )
    images = 64
    logits = (
        torch.linspace(-1, 1, images * classes, device=device).reshape(images, classes).sin().requires_grad_()
    )
    targets = torch.arange(images, device=device) % classes
    if mixes_targets(config):
        targets = F.one_hot(targets, classes).float()
    try:
        first = function(logits, targets)
        state = torch.get_rng_state()
        second = function(logits, targets)
    except Exception as error:
        raise UserError(
            f"{who} failed: {describe_error(error)}; it is called with logits float32 [N, classes] and targets, which "
            "are labels int64 [N], or with mixup and cutmix float32 [N, classes]"
        ) from error
    told = f"{first.dtype} {list(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
    if not isinstance(first, Tensor) or first.shape not in ((), (images,)) or not first.is_floating_point():
        raise UserError(
            f"{who} gave {told} for {images} images; it must give the loss of each image, [{images}], or their mean, []"
        )
    if not first.requires_grad:
        raise UserError(
            f"{who} gave a value without a gradient; compute it from the logits, and neither detach() nor item()"
        )
    if first.isnan().any():
        raise UserError(f"{who} gave NaN for logits between -1 and 1; look for a log or a division there")
    if not torch.equal(state, torch.get_rng_state()) or not torch.equal(first, second):
        raise UserError(
            f"{who} draws random numbers, or gave two values for the same images; it must draw none and keep no state, "
            "since a step depends on (seed, step, shard) alone"
        )


def _load(config: Config, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of `train.loss`; of a module, which is the user's, a copy on `device`."""
    assert config.train.loss is not None
    function = load_function("train.loss", config.train.loss)
    return deepcopy(function).to(device) if isinstance(function, nn.Module) else function
