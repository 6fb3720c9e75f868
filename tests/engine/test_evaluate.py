"""Evaluation shows that it is alive: a long one must not be taken for a hang."""

from __future__ import annotations

from dydist.config import Config, DataConfig, ModelConfig, TrainConfig
from dydist.data import open_dataset
from dydist.data.order import Order
from dydist.engine import Loop, Progress, build_engine, start_world
from dydist.monitor.null import NullMonitor, NullProbe
from dydist.session import build_model_for


def test_every_block_of_an_evaluation_beats_with_the_step_it_is_of() -> None:
    config = Config(
        model=ModelConfig(width=0.125, stem="strided"),
        data=DataConfig(name="synthetic", limit=64),
        train=TrainConfig(batch_size=16, eval_batch_size=30),
    )
    train_set, test_set = open_dataset(config.data, "train"), open_dataset(config.data, "test")
    order = Order(seed=0, size=len(train_set), batch_size=16, shards=8, drop_last=True)
    world = start_world(config)
    beats: list[int] = []
    loop = Loop(
        config, build_engine(config, build_model_for(config, train_set), world), world, order, train_set, test_set,
        NullMonitor(), lambda progress, *, final: None, probe=NullProbe(), stop_requested=lambda: False,
        heartbeat=beats.append,
    )  # fmt: skip
    loop.evaluate(Progress(step=7))
    assert beats == [7] * 3
