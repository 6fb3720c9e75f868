"""Evaluation shows that it is alive: a long one must not be taken for a hang."""

from __future__ import annotations

from dydist.config import Config, DataConfig, ModelConfig, TrainConfig
from dydist.data.splits import open_splits
from dydist.engine import Callbacks, Loop, Progress, build_engine, start_world
from dydist.monitor.null import NullMonitor, NullProbe
from dydist.run.session import build_model_for


def test_every_block_of_an_evaluation_beats_with_the_step_it_is_of() -> None:
    config = Config(
        model=ModelConfig(width=0.125, stem="strided"),
        data=DataConfig(name="synthetic", limit=64),
        train=TrainConfig(batch_size=16, eval_batch_size=30),
    )
    splits = open_splits(config)
    world = start_world(config)
    beats: list[int] = []
    engine = build_engine(config, build_model_for(config, splits.train), world)
    callbacks = Callbacks(
        monitor=NullMonitor(),
        probe=NullProbe(),
        save=lambda progress, *, final: None,
        heartbeat=beats.append,
    )
    loop = Loop(config, engine, world, splits, callbacks)
    loop.evaluate(Progress(step=7))
    assert beats == [7] * 3
