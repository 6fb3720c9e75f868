"""A run's strategies: measured once, the same on all processes, recorded, taken again, shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dydist.config import Config, ModelConfig, ParallelConfig, TrainConfig
from dydist.engine import World
from dydist.models import DynamicConv2d, dy_resnet18, dynamic_layers
from dydist.monitor import NullMonitor
from dydist.records import Detail, TextRecord
from dydist.run.strategies import assign_strategies
from helpers.support import REPOSITORY, metrics, train


def flags(runs: Path, name: str, steps: int, *more: object) -> list[object]:
    return [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", runs, "--run.name", name),
        *("--model.width", "0.0625", "--train.max_steps", steps, "--parallel.threads", "1"),
        *("--monitor.every_steps", "1", *more),
    ]


def recorded(run_dir: Path) -> dict[str, str]:
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    return json.loads((newest / "state.json").read_text())["strategies"]


def test_a_choice_is_measured_once_and_a_resumed_run_keeps_it(tmp_path: Path, measured_choices: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "native").symlink_to(measured_choices / "native")
    text = train(flags(tmp_path, "first", 2), 2, tmp_path / "log", DYDIST_CACHE=str(cache))
    assert text.count("dynamic convolutions: ") == 1  # by two processes
    assert "(as measured here)" in text
    chosen = recorded(tmp_path / "first")
    assert len(chosen) == 19
    events = EventAccumulator(str(tmp_path / "first" / "tensorboard"))
    events.Reload()
    (shown,) = events.Tensors("model/strategies/text_summary")
    assert shown.tensor_proto.string_val[0].decode().count("\n| layer") == 19

    # Another machine: there `mix` is the best for everything.
    times = json.loads((cache / "strategies.json").read_text())
    for seconds in times.values():
        seconds["mix"] = min(seconds.values()) / 2
    (cache / "strategies.json").write_text(json.dumps(times))
    text = train(flags(tmp_path, "first", 3), 1, tmp_path / "log2", DYDIST_CACHE=str(cache))
    assert "dynamic convolutions: " not in text
    assert recorded(tmp_path / "first") == chosen
    text = train(flags(tmp_path, "other", 2), 1, tmp_path / "log3", DYDIST_CACHE=str(cache))
    assert "dynamic convolutions: 19 mix (as measured here)" in text
    assert set(recorded(tmp_path / "other").values()) == {"mix"}
    assert metrics(tmp_path / "other")[0]["loss"] == pytest.approx(
        metrics(tmp_path / "first")[0]["loss"], rel=1e-5
    )


class Told(NullMonitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.details: list[Detail] = []

    def note(self, text: str, *, level: str = "info") -> None:
        self.notes.append((level, text))

    def detail(self, record: Detail) -> None:
        self.details.append(record)


def settle(recorded: dict[str, str], **sections: Any) -> tuple[dict[str, str], list[str], Told]:
    """What is recorded, what the layers take, what was told: for a small network on one process."""
    config = Config(train=TrainConfig(batch_size=8), **sections)
    model = dy_resnet18(width=0.0625, strategy=config.model.strategy)
    told = Told()
    layers = dynamic_layers(model, (3, 32, 32))
    world = World(0, 1, torch.device("cpu"))
    chosen = assign_strategies(config, model, layers, world, told, recorded=recorded)
    return chosen, [m.strategy for m in model.modules() if isinstance(m, DynamicConv2d)], told


def test_exact_goes_by_shape_and_a_configured_strategy_is_kept() -> None:
    chosen, taken, told = settle({}, parallel=ParallelConfig(reduce="exact"))
    assert list(chosen.values()) == taken
    assert told.notes == [("info", "dynamic convolutions: 9 fused, 6 winograd, 4 blocked (by shape alone)")]
    assert isinstance(told.details[0], TextRecord)
    again, taken, told = settle(dict.fromkeys(chosen, "mix"), parallel=ParallelConfig(reduce="exact"))
    assert (set(again.values()), set(taken), told.notes) == ({"mix"}, {"mix"}, [])
    chosen, taken, told = settle({"layer1.0.conv1": "taps"}, model=ModelConfig(strategy="blocked"))
    assert (chosen, set(taken), told.notes, told.details) == ({}, {"blocked"}, [], [])


def test_a_configured_strategy_that_cannot_run_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dydist.models.choice.reason", lambda: "no compiler")
    chosen, taken, told = settle({}, model=ModelConfig(strategy="fused"))
    assert (chosen, set(taken)) == ({}, {"fused"})
    ((level, text),) = told.notes
    assert level == "warning"
    assert "19 dynamic convolutions are made for C++ kernels, which are not there (no compiler)" in text
