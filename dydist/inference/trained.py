"""A network as of one step of a run, read from its checkpoint and ready to be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from dydist.checkpoint import DamagedError, Found, Storage, TrainingState, find_source, load
from dydist.config import Config
from dydist.config.reader import from_dict
from dydist.data import open_dataset
from dydist.data.description import DataDescription
from dydist.data.splits import order_of
from dydist.engine.core import AUTOCAST
from dydist.errors import UserError
from dydist.models import DynamicConv2d, apply_strategies, build_model, set_temperature
from dydist.models.resnet import ResNet18
from dydist.named_run import place_of
from dydist.schedules import evaluation_temperature

OpenPlace = Callable[[str, Mapping[str, Any]], Storage]
"""Opens a checkpoint place from its URL and a run's own storage options."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network in evaluation mode on the CPU, with the attention's temperature of its step.

    `config` is the run's, `url` the checkpoint's folder. `averaged`: the weights are the moving average.
    `accuracy`: on the test split, a fraction, as the run logged it for these very weights; None where it did not.
    `environment`: versions and hardware that trained it.
    """

    network: ResNet18
    config: Config
    data: DataDescription
    step: int
    url: str
    averaged: bool
    temperature: float
    accuracy: float | None
    environment: Mapping[str, Any]

    def with_strategy(self, strategy: str) -> TrainedModel:
        """The same model, every dynamic convolution computed by one strategy. Weights are copied."""
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
    note: Callable[[str], None],
) -> TrainedModel:
    """The network of a checkpoint's folder, of the newest valid checkpoint of a place, or of a run's folder.

    `step` asks for that step of a place; `averaged` for the moving average in place of the weights. Every byte that is
    read is verified. A damaged checkpoint of a place is passed over, and named through `note`. `data_root` replaces
    the run's data.root, which is looked at only where the checkpoint does not describe its data set.
    Raises UserError where there is no such checkpoint, and CheckpointError where its store cannot be read.
    """
    place, found = _candidates(where, open_place, step)
    url, item, state = _read(place, found, "ema" if averaged else "model", note)
    tensors = state.ema if averaged else state.model
    if averaged and not tensors:
        raise UserError(
            f"--ema: {url} holds no averaged weights, since its run had no train.ema_decay; leave --ema out"
        )
    config = from_dict(state.extra["config"], f"{url}/state.json")
    data = _description(state, config, data_root)
    network = build_model(config.model, len(data.classes))
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise UserError(
            f"checkpoint: {url} does not fit the network that its own configuration describes "
            f"({' '.join(str(error).split())}); `dydist checkpoint verify` tells whether it is whole"
        ) from error
    degrees = temperature_at(config, data, state.step)
    set_temperature(network, degrees)
    apply_strategies(network, state.extra.get("strategies", {}))  # the same kernels: the same bits
    logged = item.manifest.accuracy if item.manifest is not None else None
    return TrainedModel(
        network=network.eval().requires_grad_(False),
        config=config,
        data=data,
        step=state.step,
        url=url,
        averaged=averaged,
        temperature=degrees,
        # where an average is kept, what was logged is the better of the two
        accuracy=None if config.train.ema_decay is not None else logged,
        environment=state.extra.get("environment", {}),
    )


def temperature_at(config: Config, data: DataDescription, step: int) -> float:
    """The temperature that a run's own evaluation after `step` finished steps has."""
    return evaluation_temperature(
        config.temperature, step=step, steps_per_epoch=order_of(config, data.train_images).steps_per_epoch
    )


def _candidates(where: str, open_place: OpenPlace, step: int | None) -> tuple[Storage, list[Found]]:
    """The valid checkpoints that are meant, the one to take first."""
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
    storage: Storage, found: list[Found], kind: str, note: Callable[[str], None]
) -> tuple[str, Found, TrainingState]:
    """The first of `found` whose bytes are what its manifest says, with one kind of tensors."""
    problem: DamagedError | None = None
    for item in found:
        try:
            return f"{storage.url}/{item.folder}", item, load(storage, item, kinds=(kind,))
        except DamagedError as error:
            problem = error
            note(f"passed over: {error}")
    raise UserError(
        f"checkpoint: none at {storage.url} is whole ({problem}); use another place, or copy it again from where it "
        "was written"
    )


def _description(state: TrainingState, config: Config, data_root: str | None) -> DataDescription:
    """The data set as the checkpoint tells it; where it is an older one that does not, from the images themselves."""
    if (told := state.extra.get("data")) is not None:
        return DataDescription.from_dict(told)
    here = replace(config.data, root=data_root or config.data.root, download=False)
    try:
        return DataDescription.of(open_dataset(here, "train"))
    except UserError as error:
        raise UserError(
            f"checkpoint: its state.json does not name the classes yet, and so the data set is needed: {error}; "
            "give --data-root"
        ) from error


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The precision that the run trained and evaluated with."""
    dtype = AUTOCAST.get(config.train.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
