"""Assigns a strategy to each dynamic convolution: the recorded one, or the one that process 0 chooses."""

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
    """Assign each layer of `model` a strategy, the same on all processes; returns the choice to be recorded.

    With `model.strategy=auto`, a `recorded` choice is used unchanged on any machine, so that a resumed run computes
    as before. Otherwise process 0 measures the strategies if `parallel.reduce` is fast, and chooses by shape if it is
    exact, since a measured choice depends on noise. Collective; call it before the first forward pass, when nothing
    is compiled yet. `layers`: from `dynamic_layers`, called before the engine wrapped the network. Returns an empty
    dictionary if the strategy is configured or no layer is dynamic. Warns through `monitor` if a layer's native
    kernels are missing.
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
