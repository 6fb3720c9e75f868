"""Choosing strategies: by rule on shapes alone, by measurement with a cache, and applying a recorded choice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dydist.errors import UserError
from dydist.models import DynamicConv2d, apply_strategies, choose_strategies, dy_resnet18
from dydist.models.strategies import NAMES


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return dy_resnet18(width=0.125, stem="strided")


def test_the_rule_names_a_strategy_for_every_layer() -> None:
    chosen = choose_strategies(small(), (8, 3, 32, 32), measure=False)
    assert len(chosen) == 19
    assert chosen["layer1.0.conv1"] == "fused"  # 16 x 16 pixels
    assert chosen["layer4.1.conv2"] == "taps"  # 2 x 2
    assert chosen["layer4.0.downsample.0"] == "fused"  # 2 x 2, no padding to leave out
    wide = choose_strategies(small(), (8, 3, 64, 64), measure=False)
    assert wide["layer1.0.conv1"] == "blocked"  # 32 x 32


def test_the_rule_does_not_look_at_the_number_of_images() -> None:
    """A process of a larger world sees fewer images, and must choose the same."""
    choices = [choose_strategies(small(), (n, 3, 32, 32), measure=False) for n in (1, 4, 64)]
    assert choices[0] == choices[1] == choices[2]


def test_choosing_leaves_the_network_as_it_was() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    choose_strategies(model, (8, 3, 32, 32), measure=False)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_choice_is_applied_and_kept() -> None:
    model = small()
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    recorded = json.loads(json.dumps(choose_strategies(model, (2, 3, 32, 32), measure=False)))
    recorded["layer1.0.conv1"] = "mix"
    apply_strategies(model, recorded)
    assert {n: p.strategy for n, p in model.named_modules() if isinstance(p, DynamicConv2d)} == recorded
    assert choose_strategies(model, (2, 3, 32, 32), measure=False) == recorded
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_a_choice_of_another_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"'layer9.conv' is not a dynamic convolution"):
        apply_strategies(small(), {"layer9.conv": "mix"})
    with pytest.raises(UserError, match=r"model.strategy: 'fast' is not known"):
        apply_strategies(small(), {"layer1.0.conv1": "fast"})


def ticking(cheapest: str) -> Callable[[], float]:
    """A clock on which every strategy takes one second, in the order of NAMES, but `cheapest` half of one."""
    timed = [name for name in NAMES if name not in ("auto", "grouped")]
    spans = itertools.cycle([0.5 if name == cheapest else 1.0 for name in timed])
    now, begin = 0.0, True

    def read() -> float:
        nonlocal now, begin
        if not begin:
            now += next(spans)
        begin = not begin
        return now

    return read


def test_the_fastest_is_taken_and_remembered(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "strategies.json"
    model = torch.nn.Sequential(DynamicConv2d(4, 4, 3, padding=1), DynamicConv2d(4, 4, 3, padding=1))
    first = choose_strategies(model, (2, 4, 5, 5), measure=True, cache=cache, clock=ticking("mix"))
    assert first == {"0": "mix", "1": "mix"}

    def never() -> float:
        raise AssertionError("measured again")

    assert choose_strategies(model, (2, 4, 5, 5), measure=True, cache=cache, clock=never) == first
    with pytest.raises(AssertionError, match="measured again"):
        choose_strategies(model, (2, 4, 6, 6), measure=True, cache=cache, clock=never)


def test_a_torn_cache_is_measured_anew(tmp_path: Path) -> None:
    cache = tmp_path / "strategies.json"
    cache.write_text('{"half')
    model = torch.nn.Sequential(DynamicConv2d(4, 4, 3, padding=1))
    assert choose_strategies(model, (2, 4, 5, 5), measure=True, cache=cache, clock=ticking("blocked")) == {
        "0": "blocked"
    }
    assert json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = torch.nn.Sequential(DynamicConv2d(4, 4, 3, padding=1))
    chosen = choose_strategies(
        model, (2, 4, 5, 5), measure=True, cache=tmp_path / "file" / "x.json", clock=ticking("taps")
    )
    assert chosen == {"0": "taps"}
