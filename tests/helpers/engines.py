"""Engines in one process: a tiny network, its batches and some steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dydist.config import Config, DataConfig, ModelConfig, OptimConfig, ParallelConfig, TrainConfig
from dydist.data import ImageDataset, open_dataset
from dydist.data.loader import ShardedLoader, StepBatch
from dydist.data.order import Order
from dydist.engine import Engine, Votes, World, build_engine
from dydist.run.session import build_model_for


def configure(**sections: dict[str, Any]) -> Config:
    """A tiny network on synthetic images in four shards of six."""
    config = Config(
        model=ModelConfig(width=0.125, stem="strided"),
        data=DataConfig(name="synthetic", limit=100),
        train=TrainConfig(batch_size=24),
        optim=OptimConfig(lr=0.05),
        parallel=ParallelConfig(shards=4, reduce="exact"),
    )
    changed = {name: replace(getattr(config, name), **values) for name, values in sections.items()}
    return replace(config, **changed)  # type: ignore[arg-type]


def make(config: Config, world: World) -> tuple[Engine, ImageDataset, Order]:
    dataset = open_dataset(config.data, "train")
    order = Order(
        seed=config.seed,
        size=len(dataset),
        batch_size=config.train.batch_size,
        shards=config.parallel.shards,
        drop_last=config.data.drop_last,
    )
    return build_engine(config, build_model_for(config, dataset), world), dataset, order


def batches(config: Config, dataset: ImageDataset, order: Order, start: int, stop: int) -> list[StepBatch]:
    together = config.parallel.reduce == "fast"
    device = torch.device("cpu")
    with ShardedLoader(
        dataset, config.data, order, range(4), device=device, start=start, stop=stop, together=together
    ) as loader:
        return list(loader)


def run(config: Config, world: World, steps: int = 2, start: int = 0) -> tuple[Engine, list[Any]]:
    engine, dataset, order = make(config, world)
    sums = [
        engine.train_step(batch, lr=config.optim.lr, temperature=5.0, votes=Votes())()
        for batch in batches(config, dataset, order, start, start + steps)
    ]
    return engine, sums
