"""How a run's dynamic convolutions are computed: as its checkpoint recorded, or as process 0 chooses at the start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from dydist.config import Config
from dydist.engine import World
from dydist.engine.core import AUTOCAST
from dydist.models import DynamicLayer, apply_strategies, choose_strategies
from dydist.models.choice import choice_table, describe_choice, slow_kernels
from dydist.records import Monitor, TextRecord


def assign_strategies(
    config: Config,
    model: nn.Module,
    layers: Mapping[str, DynamicLayer],
    world: World,
    monitor: Monitor,
    *,
    recorded: Mapping[str, str],
) -> dict[str, str]:
    """Give every layer of `model` its strategy, the same on all processes; returns what the run is to record.

    With `model.strategy=auto` a `recorded` choice is taken as it is, on whatever machine, so that a resumed run
    computes as it did. A run's first start measures on process 0 where the sums are `fast`, and goes by shape
    where they are `exact`: a measured choice would depend on noise. Call it before the first pass (nothing is
    compiled yet), on all processes. `layers` were looked at before the engine took the network
    (`dynamic_layers`). Where the strategy is configured, or nothing is dynamic, there is nothing to record. Either
    way the monitor is told of kernels that the layers are made for and that are not there.
    """
    if config.model.strategy != "auto":
        _warn_of_slow_kernels({name: layer.strategy for name, layer in layers.items()}, world, monitor)
        return {}
    if not layers:
        return {}
    chosen = dict(recorded)
    if not chosen:
        measure = config.parallel.reduce == "fast"
        if world.rank == 0:
            chosen = choose_strategies(
                layers,
                images=max(1, config.train.batch_size // world.size),
                measure=measure,
                device=world.device,
                dtype=AUTOCAST.get(config.train.precision, torch.float32),
            )
        chosen = world.broadcast(chosen)
        how = "as measured here" if measure else "by shape alone"
        monitor.note(f"dynamic convolutions: {describe_choice(chosen)} ({how})")
    apply_strategies(model, chosen)
    monitor.detail(TextRecord(tag="model/strategies", text=choice_table(layers, chosen)))
    _warn_of_slow_kernels(chosen, world, monitor)
    return chosen


def _warn_of_slow_kernels(chosen: Mapping[str, str], world: World, monitor: Monitor) -> None:
    if (lost := slow_kernels(chosen, world.device)) is not None:
        monitor.note(lost, level="warning")
