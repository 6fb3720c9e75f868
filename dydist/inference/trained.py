"""Loads a trained network from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dydist.checkpoint import CheckpointFolder, DamagedError, Storage, TrainingState, find_source, load
from dydist.config import Config
from dydist.config.reader import from_dict
from dydist.data import open_dataset
from dydist.data.description import DataDescription
from dydist.data.splits import order_of
from dydist.engine.core import AUTOCAST
from dydist.errors import UserError
from dydist.inference.trust import refuse_foreign_code
from dydist.models import DynamicConv2d, apply_strategies, build_model, set_temperature
from dydist.models.factory import source_hash
from dydist.named_run import place_of
from dydist.schedules import evaluation_temperature
from dydist.text.redaction import fill_hidden, refuse_hidden
from dydist.user_function import passing

OpenPlace = Callable[[str, Mapping[str, Any]], Storage]
"""Opens a checkpoint store by URL and storage options."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network in evaluation mode on the CPU, with its step's temperature.

    `config` is the run's, `url` the checkpoint's folder. `averaged`: the weights are the moving average. `accuracy`:
    the run's logged accuracy of these weights on `config.data.evaluated_split`, a fraction, or None. `test_accuracy`:
    that on the test split, if the run logged it. `environment`: versions and hardware of the training.
    """

    network: nn.Module
    config: Config
    data: DataDescription
    step: int
    url: str
    averaged: bool
    temperature: float
    accuracy: float | None
    test_accuracy: float | None
    environment: Mapping[str, Any]

    def with_strategy(self, strategy: str) -> TrainedModel:
        """A copy of this model whose dynamic convolutions all use one strategy."""
        network = deepcopy(self.network)
        for part in network.modules():
            if isinstance(part, DynamicConv2d):
                part.strategy = strategy
        return replace(self, network=network)


def load_trained(
    where: str,
    open_place: OpenPlace,
    *,
    step: int | None = None,
    averaged: bool = False,
    data_root: str | None = None,
    factory: str | None = None,
    model: Callable[..., Any] | None = None,
    note: Callable[[str], None],
) -> TrainedModel:
    """Load the network of a checkpoint's folder, or of the newest valid checkpoint of a store or a run folder.

    `step` selects a step of a store; `averaged` selects the moving average instead of the weights. All bytes read are
    verified. A damaged checkpoint of a store is skipped and reported through `note`. `data_root` replaces the run's
    data.root, which is only used if the checkpoint does not describe its data set. `factory`: functions that the user
    trusts, which a checkpoint may name (`trust`); `model`: a function or a network in place of the one that it names.
    Raises UserError if there is no such checkpoint, or it names others,
    and CheckpointError if its store cannot be read.
    """
    place, found = _candidates(where, open_place, step)
    url, item, state = _read(place, found, "ema" if averaged else "model", note)
    tensors = state.ema if averaged else state.model
    if averaged and not tensors:
        raise UserError(
            f"--ema: {url} holds no averaged weights, since its run had no train.ema_decay; leave --ema out"
        )
    config = from_dict(state.extra["config"], f"{url}/state.json")
    passed = {} if model is None else {("model.factory", _own_factory(config)): model}
    if model is None:
        refuse_foreign_code(config, "model", where=where, given=factory)
    if state.extra.get("data") is None:
        refuse_foreign_code(config, "data", where=where, given=factory)
    config = _with_secrets(config)
    data = _description(state, config, data_root)
    told = state.extra.get("network", {}).get("source")
    with passing(passed):
        network = build_model(config.model, len(data.classes), (3, data.side, data.side))
        edited = told is not None and source_hash(config.model) not in (None, told)
    if edited:
        note(
            f"model.factory: the file of {config.model.factory} is not the one that this network was trained with"
        )
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise UserError(
            f"checkpoint: {url} does not fit the network that its own configuration describes "
            f"({' '.join(str(error).split())}); `dydist checkpoint verify` tells whether it is whole"
        ) from error
    degrees = temperature_at(config, data, state.step)
    set_temperature(network, degrees)
    apply_strategies(network, state.extra.get("strategies", {}))  # the same strategies give the same bits
    logged = item.manifest.accuracy if item.manifest is not None else None
    tested = logged if config.data.validation is None else state.extra.get("test_accuracy")
    return TrainedModel(
        network=network.eval().requires_grad_(False),
        config=config,
        data=data,
        step=state.step,
        url=url,
        averaged=averaged,
        temperature=degrees,
        # with averaged weights, the logged accuracy is the better of the two
        accuracy=None if config.train.ema_decay is not None else logged,
        test_accuracy=None if config.train.ema_decay is not None else tested,
        environment=state.extra.get("environment", {}),
    )


def _own_factory(config: Config) -> str:
    """The name of the run's own network. Raises UserError if it trained dydist's."""
    if config.model.factory is None:
        raise UserError("model: this run trained dydist's own network; leave model out")
    return config.model.factory


def _with_secrets(config: Config) -> Config:
    """`config` with the hidden options of its factory from the environment. Raises UserError if one is missing."""
    values = fill_hidden({"model": {"options": config.model.options}}, os.environ)
    refuse_hidden(values)
    return replace(config, model=replace(config.model, options=values["model"]["options"]))


def temperature_at(config: Config, data: DataDescription, step: int) -> float:
    """The temperature of the run's evaluation after `step` finished steps."""
    return evaluation_temperature(
        config.temperature, step=step, steps_per_epoch=order_of(config, data.train_images).steps_per_epoch
    )


def _candidates(
    where: str, open_place: OpenPlace, step: int | None
) -> tuple[Storage, list[CheckpointFolder]]:
    """The store and its valid checkpoints that `where` and `step` select, in order of preference."""
    url, folder, options = place_of(where, field="checkpoint")
    source = url if folder is None else f"{url}/{folder}"
    place, found = find_source(lambda url: open_place(url, options), source, field="checkpoint")
    storage = open_place(place, options)
    if step is not None:
        there = [item.step for item in found]
        found = [item for item in found if item.step == step]
        if not found:
            raise UserError(
                f"--step: there is no valid checkpoint of step {step} at {storage.url}; there are "
                f"{', '.join(map(str, there))}"
            )
    return storage, sorted(found, key=lambda item: item.set_aside)


def _read(
    storage: Storage, found: list[CheckpointFolder], kind: str, note: Callable[[str], None]
) -> tuple[str, CheckpointFolder, TrainingState]:
    """Load one kind of tensors from the first of `found` that is valid."""
    problem: DamagedError | None = None
    for item in found:
        try:
            return f"{storage.url}/{item.folder}", item, load(storage, item, kinds=(kind,))
        except DamagedError as error:
            problem = error
            note(f"skipped: {error}")
    raise UserError(
        f"checkpoint: none at {storage.url} is whole ({problem}); use another place, or copy it again from where it "
        "was written"
    )


def _description(state: TrainingState, config: Config, data_root: str | None) -> DataDescription:
    """The checkpoint's description of its data set; for older checkpoints without one, from the images."""
    if (told := state.extra.get("data")) is not None:
        return DataDescription.from_dict(told)
    here = replace(config.data, root=data_root or config.data.root, download=False)
    try:
        return DataDescription.of(open_dataset(here, "train"), held_out=here.validation or 0)
    except UserError as error:
        raise UserError(
            f"checkpoint: its state.json does not name the classes yet, and so the data set is needed: {error}; "
            "give --data-root"
        ) from error


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The autocast context of the run's training and evaluation."""
    dtype = AUTOCAST.get(config.train.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
