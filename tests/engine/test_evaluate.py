"""Evaluation shows that it is alive, for a long one must not be taken for a hang; and what is chosen by it."""

from __future__ import annotations

from typing import Any

import pytest

from dydist.config import CheckpointConfig, Config, DataConfig, ModelConfig, TrainConfig
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


def small(saved: list[Progress], **train: Any) -> Loop:
    """A run of two steps, with a validation split and a checkpoint at each step."""
    config = Config(
        model=ModelConfig(width=0.0625, stem="strided"),
        data=DataConfig(name="synthetic", limit=64, validation=16),
        train=TrainConfig(batch_size=16, max_steps=2, **train),
        checkpoint=CheckpointConfig(every_steps=1),
    )
    splits = open_splits(config)
    world = start_world(config)
    engine = build_engine(config, build_model_for(config, splits.train), world)

    def save(progress: Progress, *, final: bool) -> None:
        saved.append(progress)

    return Loop(config, engine, world, splits, Callbacks(monitor=NullMonitor(), probe=NullProbe(), save=save))


@pytest.mark.parametrize(("averaged", "expected"), [(0.6, 0.9), (0.5, 0.9), (0.7, 0.3)])
def test_the_test_split_is_not_what_chooses_between_weights_and_averaged_weights(
    averaged: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = small([], ema_decay=0.9)
    accuracies = {(False, True): 0.6, (True, True): averaged, (False, False): 0.9, (True, False): 0.3}
    if averaged == 0.6:  # the weights where both are alike, whichever is better on the test split
        accuracies[True, False] = 1.0
    monkeypatch.setattr(
        loop,
        "_evaluate_on",
        lambda images, *_, ema, observe: accuracies[ema, images is loop.splits.validation],
    )
    assert loop.evaluate(Progress(step=2)).test_accuracy == expected


def test_a_finished_run_that_goes_on_has_no_test_accuracy_until_its_new_end() -> None:
    saved: list[Progress] = []
    loop = small(saved)
    assert loop.run(Progress(test_accuracy=1.01))[1]
    assert [progress.step for progress in saved] == [1, 2]
    assert saved[0].test_accuracy is None
    assert saved[1].test_accuracy is not None
    assert saved[1].test_accuracy <= 1
