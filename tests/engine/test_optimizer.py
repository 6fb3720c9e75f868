"""Learning-rate and decay factors: with `auto`, a dynamic network with uniform attention is the static network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydist.config import Config
from dydist.engine import Votes, World
from dydist.engine.core import TorchEngine
from dydist.engine.optimizer import kernel_factors, make_optimizer, parameter_groups, set_learning_rate
from dydist.models import DynamicConv2d, build_model, set_temperature
from dydist.models.attention import initial_weight
from dydist.run.session import build_model_for
from helpers.engines import batches, configure, make

NETWORKS = [("softmax", 2), ("softmax", 4), ("softmax", 8), ("sigmoid", 2), ("sigmoid", 4), ("l1", 8)]
AUTO = {"kernel_lr": "auto", "kernel_decay": "auto"}
UNIFORM = 1e30
"""A temperature at which every attention is uniform to the last bit."""


def pair(
    kind: str, kernels: int, options: Mapping[str, Any] = MappingProxyType({}), **optim: Any
) -> tuple[Config, Config]:
    """Configurations of a dynamic network, with `options` of its attention, and of its static twin."""
    common = {"dropout": 0.0, "bias": False}
    # a higher rate would magnify rounding: batch norm over few images is sensitive
    sgd = {"lr": 0.005, "weight_decay": 0.01, "nesterov": True, **optim}
    dynamic = configure(model={**common, "attention": kind, "kernels": kernels, **options}, optim=sgd)
    return dynamic, configure(model={**common, "kind": "static"}, optim=sgd)


def mixed(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a static network: of a dynamic one, its kernels mixed at zero logits, without attention."""
    state = {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if ".attention." not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, DynamicConv2d):
            share = initial_weight(module.attention.kind, module.kernels)
            state[f"{name}.weight"] = share * module.weight.detach().sum(0)
    return state


def train(config: Config, model: nn.Module, steps: int = 20) -> list[float]:
    """Losses of `steps` steps on random images, with a learning rate that changes."""
    optimizer = make_optimizer(config, model)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for step in range(steps):
        images = torch.randn(8, 3, 16, 16, generator=draw, dtype=torch.float64)
        loss = F.cross_entropy(model(images), torch.randint(10, (8,), generator=draw))
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, config.optim.lr * (1 + step % 3))
        optimizer.step()
        losses.append(loss.item())
    return losses


def difference(
    kind: str, kernels: int, options: Mapping[str, Any] = MappingProxyType({}), **optim: Any
) -> float:
    """Largest difference of mixed kernels and losses after 20 steps in float64."""
    dynamic, static = pair(kind, kernels, options, **optim)
    torch.manual_seed(0)
    model = build_model(dynamic.model, num_classes=10).double()
    twin = build_model(static.model, num_classes=10).double()
    twin.load_state_dict(mixed(model))
    set_temperature(model, UNIFORM)
    losses, expected = train(dynamic, model), train(static, twin)
    assert expected[-1] != pytest.approx(
        expected[0], rel=1e-3
    )  # it learns, so that equal paths mean something
    now, then = mixed(model), mixed(twin)
    assert now.keys() == then.keys()
    gaps = [float((now[name] - then[name]).abs().max()) for name in now]
    return max(*gaps, *(abs(a - b) for a, b in zip(losses, expected, strict=True)))


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [pytest.param(*each, marks=() if each == ("softmax", 4) else pytest.mark.long) for each in NETWORKS],
)
@pytest.mark.parametrize("nesterov", [True, pytest.param(False, marks=pytest.mark.long)])
def test_uniform_attention_follows_the_static_network_step_by_step(
    kind: str, kernels: int, nesterov: bool
) -> None:
    assert difference(kind, kernels, **AUTO, nesterov=nesterov) < 1e-10


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [{"attention_norm": "batch", "channel_attention": True}, {"spread": 0.01}, {"dynamic": "layer[34].*"}],
)
def test_with_the_options_of_the_attention_it_does_too(options: dict[str, Any]) -> None:
    assert difference("softmax", 4, options, **AUTO) < 1e-10


@pytest.mark.parametrize("left_out", ["kernel_lr", pytest.param("kernel_decay", marks=pytest.mark.long)])
def test_without_a_factor_it_does_not(left_out: str) -> None:
    factors = {name: value for name, value in AUTO.items() if name != left_out}
    assert difference("softmax", 4, **factors) > 1e-4


@pytest.mark.parametrize("reduce", ["exact", pytest.param("fast", marks=pytest.mark.long)])
def test_the_engine_follows_the_static_network_to_rounding(reduce: str, world: World) -> None:
    losses = {}
    for config in pair("softmax", 4, **AUTO, lr=1e-4):
        config = replace(config, parallel=replace(config.parallel, reduce=reduce))
        engine, dataset, order = make(config, world)
        if config.model.kind == "dynamic":
            start = mixed(engine.model)
        else:
            engine.load(start, {}, {}, {})
        losses[config.model.kind] = [
            engine.train_step(batch, lr=config.optim.lr, temperature=UNIFORM, votes=Votes())().loss
            for batch in batches(config, dataset, order, 0, 20 * 4)[:20]
        ]
    assert losses["dynamic"] == pytest.approx(losses["static"], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "kernels", "rate", "decay"),
    [("softmax", 1, 1, 1), ("softmax", 8, 8, 1 / 8), ("sigmoid", 4, 1, 1), ("sigmoid", 8, 0.5, 2)],
)
def test_auto_is_the_inverse_sum_of_squares(kind: str, kernels: int, rate: float, decay: float) -> None:
    dynamic, _ = pair(kind, kernels, **AUTO)
    assert kernel_factors(dynamic.optim, kind=kind, kernels=kernels) == pytest.approx((rate, decay))


def test_every_parameter_is_in_one_group_with_its_own_factors() -> None:
    config = configure(
        model={"bias": True},
        optim={"kernel_lr": 3.0, "kernel_decay": 0.5, "attention_lr": 2.0, "weight_decay": 0.1},
    )
    model = build_model(config.model, num_classes=10)
    found = {
        id(parameter): (group["lr_factor"], group["weight_decay"])
        for group in parameter_groups(config, model)
        for parameter in group["params"]
    }
    by_name = {name: found[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(found) == len(by_name)
    for name, factors in by_name.items():
        dynamic = name.startswith("layer") and ".bn" not in name and ".downsample.1." not in name
        expected = (2.0, 0.1) if ".attention." in name else (3.0, 0.05) if dynamic else (1.0, 0.1)
        assert factors == expected, name


def test_the_defaults_are_one_group_as_before() -> None:
    model = build_model(configure().model, num_classes=10)
    (group,) = parameter_groups(configure(), model)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["lr_factor"], group["weight_decay"]) == (1.0, configure().optim.weight_decay)


def test_a_step_uses_each_groups_rate(world: World) -> None:
    """With `attention_lr` and `kernel_lr` zero nothing but the static layers moves."""
    config = configure(optim={"kernel_lr": 0.0, "attention_lr": 0.0})
    engine, dataset, order = make(config, world)
    assert isinstance(engine, TorchEngine)
    before = copy.deepcopy(build_model_for(config, dataset).state_dict())
    engine.train_step(batches(config, dataset, order, 0, 1)[0], lr=0.1, temperature=5.0, votes=Votes())()
    for name, parameter in engine.model.named_parameters():
        dynamic = name.startswith("layer") and ".bn" not in name and ".downsample.1." not in name
        assert torch.equal(parameter.detach(), before[name]) == dynamic, name
