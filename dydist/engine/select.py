"""Creates the configured engine."""

from __future__ import annotations

from torch import nn

from dydist.config import Config
from dydist.engine.protocol import Engine
from dydist.engine.world import World


def build_engine(config: Config, model: nn.Module, world: World) -> Engine:
    """The engine of `parallel.engine` and `parallel.reduce`, holding `model` on this process's device."""
    if config.parallel.reduce == "exact":
        from dydist.engine.exact import ExactEngine

        return ExactEngine(config, model, world)
    if config.parallel.engine == "deepspeed":
        from dydist.engine.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(config, model, world)
    from dydist.engine.ddp import DdpEngine

    return DdpEngine(config, model, world)
