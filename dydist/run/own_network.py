"""The user's own network in a run: its identity, its examination, and its initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dydist.config import Config
from dydist.data import ImageDataset
from dydist.engine import World
from dydist.engine.loss import examine_loss
from dydist.errors import FailedError, UserError
from dydist.models import build_model
from dydist.models.examine import examine
from dydist.models.factory import build_network, source_hash
from dydist.models.pretrained import hash_of, load_weights, read_weights
from dydist.randomness import derived_seed
from dydist.run.folder import public_values
from dydist.text.redaction import scrub
from dydist.user_function import is_passed


def network_identity(config: Config) -> dict[str, Any]:
    """The values that a resume compares: the factory's options, and a hash of its file. Empty for dydist's network."""
    if config.model.factory is None:
        return {}
    return {"options": public_values(config)["model"]["options"], "source": source_hash(config.model)}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of values in `network_identity` that differ. A program that passes its own function has no `source`."""
    return [
        name
        for name, was in before.items()
        if was != now.get(name) and not (name == "source" and None in (was, now.get(name)))
    ]


def examine_network(config: Config, model: nn.Module, dataset: ImageDataset, world: World) -> list[str]:
    """Examine the user's own network (dydist/models/examine.py) after it is built, and loss; returns warnings.

    Raises UserError if it cannot be trained as configured. With reduce=exact, nothing may make its bits depend on the
    number of processes; with several processes, buffers must not differ between them.
    """
    examine_loss(config, len(dataset.classes), world.device)
    if config.model.factory is None:
        return []
    if is_passed("model.factory", config.model.factory):
        _refuse_other_weights(config, model, world)
    who = f"model.factory: the network of {config.model.factory}"
    found = examine(model, len(dataset.classes), dataset.images.shape[1:], who)
    model.draws_masks = found.draws  # type: ignore[assignment]
    exact = config.parallel.reduce == "exact"
    doubts = [*found.unkeyed, *found.changing]
    if exact and doubts:
        raise UserError(
            f"model.factory: {doubts[0]}, which does not depend on (seed, step, shard) alone, so that parallel.reduce="
            "exact cannot keep its promise; draw by dropout or torch.rand, keep no state, or use parallel.reduce=fast"
        )
    if world.size > 1 and found.changing:
        raise UserError(
            f"model.factory: {found.changing[0]}, which would differ between processes; train with one process, or "
            "without that module"
        )
    if config.train.compile and found.draws:
        raise UserError(
            f"train.compile: true cannot be used with {config.model.factory}, which draws masks (dropout) in its "
            "forward pass; set its dropout to 0, or leave compiling out"
        )
    if world.size > 1 and not exact and found.unused:
        raise UserError(
            f"model.factory: parameter {found.unused[0]} is not used in a forward pass, which parallel.reduce=fast "
            "cannot train on several processes; remove it, set its requires_grad to False, or use parallel.reduce=exact"
        )
    return [
        *(f"model.factory: {text}: such values depend on the number of processes" for text in doubts),
        *(f"model.factory: {text}" for text in found.by_batch),
    ]


def _refuse_other_weights(config: Config, model: nn.Module, world: World) -> None:
    """Raise UserError unless all processes were passed a network with the same weights. Collective."""
    hashes = world.gather(hash_of(model.state_dict()) if world.size > 1 else "")
    for rank, other in enumerate(hashes):
        if other != hashes[0]:
            raise UserError(
                f"model.factory: process {rank} was passed {config.model.factory} with other weights than process 0; "
                "pass the function that makes the network, which is called with the seed set"
            )


def network_with_weights(
    config: Config, dataset: ImageDataset, world: World
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with the weights of `model.weights`, and the names of tensors that keep their initial values.

    Collective. Raises UserError, on every process, if a process cannot read them, they differ, or do not fit, and
    FailedError if their place does not answer.
    """
    weights = _same_weights(config, world)
    classes = len(dataset.classes)
    left: list[str] = []

    def load(network: nn.Module) -> None:
        left.extend(load_weights(network, weights, config.model, classes))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        if config.model.factory is None:
            network = build_model(config.model, classes)
            load(network)
        else:
            network = build_network(config.model, classes, dataset.images.shape[1:], before_conversion=load)
    return network, tuple(left)


def _same_weights(config: Config, world: World) -> dict[str, Tensor]:
    assert config.model.weights is not None
    weights: dict[str, Tensor] = {}
    problem: UserError | FailedError | None = None
    digest = ""
    try:
        weights = read_weights(config.model.weights, config.checkpoint.storage_options)
        digest = hash_of(weights) if world.size > 1 else ""
    except (UserError, FailedError) as error:
        problem = error
    found = world.gather((problem, digest))
    for told, _ in found:
        if told is not None:
            raise told
    for rank, (_, other) in enumerate(found):
        if other != found[0][1]:
            raise UserError(
                f"model.weights: process {rank} reads other weights from {scrub(config.model.weights)} than process 0; "
                "put the same file on every node, or in a shared folder"
            )
    return weights
