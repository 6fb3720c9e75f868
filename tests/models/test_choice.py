"""Choosing strategies: by rule on shapes alone, by measurement with a cache, and applying a recorded choice."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dydist.errors import UserError
from dydist.models import (
    DynamicConv2d,
    apply_strategies,
    choose_strategies,
    dy_resnet18,
    dynamic_layers,
    measured,
)
from dydist.models.choice import choice_table, describe_choice
from dydist.models.measured import Problem, TimingCache
from dydist.models.strategies import Geometry, Shape

CANDIDATES = ("mix", "blocked", "fused", "winograd")
"""What is timed on a CPU for more than 16 output pixels, in this order."""


def small() -> nn.Module:
    torch.manual_seed(0)
    return dy_resnet18(width=0.125, stem="strided")


def by_rule(model: nn.Module, images: int = 8, side: int = 32) -> dict[str, str]:
    return choose_strategies(dynamic_layers(model, (3, side, side)), images=images, measure=False)


def test_the_rule_names_a_strategy_for_every_layer() -> None:
    chosen = by_rule(small())
    assert len(chosen) == 19
    assert chosen["layer1.0.conv1"] == "fused"  # 16 x 16 pixels, 8 channels
    assert chosen["layer2.0.conv2"] == "winograd"  # 8 x 8 pixels, 16 channels
    assert chosen["layer2.0.conv1"] == "fused"  # stride 2
    assert chosen["layer4.1.conv2"] == "taps"  # 2 x 2
    assert chosen["layer4.0.downsample.0"] == "fused"  # 2 x 2, no padding to leave out
    assert by_rule(small(), side=64)["layer1.0.conv1"] == "blocked"  # 32 x 32


def test_the_rule_does_not_look_at_the_number_of_images() -> None:
    """A process of a larger world sees fewer images, and must choose the same."""
    choices = [by_rule(small(), images) for images in (1, 4, 64)]
    assert choices[0] == choices[1] == choices[2]


def test_looking_leaves_the_network_as_it_was() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    layers = dynamic_layers(model, (3, 32, 32))
    assert layers["layer1.0.conv1"].size == (8, 16, 16)
    assert layers["layer2.0.conv1"].weight == (4, 16, 8, 3, 3)
    assert all(part.training for part in model.modules())
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_dynamic_layers_has_nothing_to_choose() -> None:
    assert dynamic_layers(nn.Linear(3, 3), (3, 32, 32)) == {}
    assert choose_strategies({}, images=4, measure=True) == {}


def test_a_choice_is_applied_and_kept() -> None:
    model = small()
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    recorded = json.loads(json.dumps(by_rule(model)))
    recorded["layer1.0.conv1"] = "mix"
    apply_strategies(model, recorded)
    assert {n: p.strategy for n, p in model.named_modules() if isinstance(p, DynamicConv2d)} == recorded
    assert by_rule(model) == recorded
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_a_choice_of_another_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"'layer9.conv' is not a dynamic convolution"):
        apply_strategies(small(), {"layer9.conv": "mix"})
    with pytest.raises(UserError, match=r"model.strategy: 'fast' is not known"):
        apply_strategies(small(), {"layer1.0.conv1": "fast"})


def test_a_choice_in_words_and_in_full() -> None:
    chosen = {"a": "fused", "b": "mix", "c": "fused"}
    assert describe_choice(chosen) == "2 fused, 1 mix"
    model = nn.Sequential(DynamicConv2d(4, 6, 3, padding=1))
    table = choice_table(dynamic_layers(model, (4, 5, 5)), {"0": "mix"})
    assert table.splitlines()[-1] == "| 0 | 4×5×5 | 4×6×4×3×3 | mix |"


def ticking(**spans: float) -> Callable[[], float]:
    """A clock on which every candidate takes one second, in their order, but those in `spans` so long."""
    passing = itertools.cycle([spans.get(name, 1.0) for name in CANDIDATES])
    now, begin = 0.0, True

    def read() -> float:
        nonlocal now, begin
        if not begin:
            now += next(passing)
        begin = not begin
        return now

    return read


def never() -> float:
    raise AssertionError("measured again")


def pair(size: int = 5) -> dict[str, DynamicConv2d]:
    model = nn.Sequential(DynamicConv2d(4, 4, 3, padding=1), DynamicConv2d(4, 4, 3, padding=1))
    return dynamic_layers(model, (4, size, size))  # type: ignore[return-value]


def test_the_fastest_is_taken_and_remembered(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "strategies.json"
    options = {"measure": True, "cache": cache}
    first = choose_strategies(pair(), images=64, clock=ticking(mix=0.5), **options)  # type: ignore[arg-type]
    assert first == {"0": "mix", "1": "mix"}
    for images in (64, 32):  # as many as are used to measure: 1 and 2 processes share what was seen
        assert choose_strategies(pair(), images=images, clock=never, **options) == first  # type: ignore[arg-type]
    for other in ({"images": 16}, {"images": 64, "dtype": torch.bfloat16}):
        with pytest.raises(AssertionError, match="measured again"):
            choose_strategies(pair(), clock=never, **other, **options)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="measured again"):
        choose_strategies(pair(6), images=64, clock=never, **options)  # type: ignore[arg-type]


def test_the_rule_stays_where_nothing_is_clearly_faster(tmp_path: Path) -> None:
    options = {"images": 8, "measure": True, "cache": tmp_path / "strategies.json"}
    assert choose_strategies(pair(), clock=ticking(mix=0.97), **options)["0"] == "fused"  # type: ignore[arg-type]


def test_a_torn_cache_is_measured_anew(tmp_path: Path) -> None:
    cache = tmp_path / "strategies.json"
    cache.write_text('{"half')
    chosen = choose_strategies(pair(), images=8, measure=True, cache=cache, clock=ticking(blocked=0.5))
    assert chosen == {"0": "blocked", "1": "blocked"}
    assert json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "x.json"
    chosen = choose_strategies(pair(), images=8, measure=True, cache=cache, clock=ticking(blocked=0.5))
    assert chosen == {"0": "blocked", "1": "blocked"}


def test_two_at_once_measure_once_and_choose_alike(tmp_path: Path) -> None:
    """The second waits for the first, then takes its figures: on its own clock another strategy would win."""
    first_measures, second_may_end = threading.Event(), threading.Event()
    clock = ticking(mix=0.5)

    def slow() -> float:
        first_measures.set()
        assert second_may_end.wait(60)
        return clock()

    results: dict[str, dict[str, str]] = {}

    def choose(name: str, clock: Callable[[], float]) -> None:
        cache = tmp_path / "strategies.json"
        results[name] = choose_strategies(pair(), images=8, measure=True, cache=cache, clock=clock)

    first = threading.Thread(target=choose, args=("first", slow))
    second = threading.Thread(target=choose, args=("second", never))
    first.start()
    assert first_measures.wait(60)
    second.start()
    second_may_end.set()
    first.join(60)
    second.join(60)
    assert results["first"] == results["second"] == {"0": "mix", "1": "mix"}


def test_what_is_worth_timing(tmp_path: Path) -> None:
    def candidates(pixels: int, device: str) -> tuple[str, ...]:
        geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
        shape = Shape(2, 4, 8, 8, (3, 3), (pixels, 1), geometry)
        size, weight = (2, 8, pixels, 1), (4, 8, 8, 3, 3)
        return Problem(shape, size, weight, geometry, torch.float32, torch.device(device)).candidates()

    assert candidates(64, "cpu") == CANDIDATES
    assert candidates(4, "cpu") == (*CANDIDATES, "taps")
    assert candidates(4, "cuda") == ("stacked", "taps")
    assert candidates(64, "cuda") == ("stacked",)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_rules_strategy_is_measured_whatever_it_says(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a strategy that is new in the rule would lose to every measured one."""
    monkeypatch.setattr(measured, "rule", lambda *_: "grouped")
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    shape = Shape(2, 4, 8, 8, (3, 3), (8, 8), geometry)
    problem = Problem(shape, (2, 8, 8, 8), (4, 8, 8, 3, 3), geometry, torch.float32, torch.device(device))
    assert "grouped" in problem.candidates()


def test_times_are_real(tmp_path: Path) -> None:
    """The machine's own clock: every candidate gets a time, and all but hopeless ones the best of three."""
    layers = dynamic_layers(nn.Sequential(DynamicConv2d(8, 8, 3, padding=1)), (8, 4, 4))
    chosen = choose_strategies(layers, images=4, measure=True, cache=tmp_path / "s.json")
    (seconds,) = json.loads((tmp_path / "s.json").read_text()).values()
    assert set(seconds) == {*CANDIDATES, "taps"}
    assert all(0 < value < 10 for value in seconds.values())
    assert chosen["0"] in seconds
    assert TimingCache(tmp_path / "s.json", never).measure({}) == {}
