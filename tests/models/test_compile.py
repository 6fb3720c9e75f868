"""torch.compile: whole graphs, equal values and gradients, and nothing compiled anew when the temperature moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dydist.models import DynamicConv2d, attach_statistics, dy_resnet18, set_temperature
from dydist.models.strategies import NAMES
from helpers.dynamic_networks import randomize


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def gradients(model: nn.Module, call: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    out = call(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=() if name in ("mix", "fused", "stacked") else pytest.mark.long)
        for name in NAMES
    ],
)
def test_a_layer_compiles_to_one_graph_with_equal_gradients(strategy: str) -> None:
    """aot_eager traces forward and backward as inductor does, without its code generation."""
    torch.manual_seed(0)
    layer = DynamicConv2d(6, 5, 3, 2, 1, bias=True, strategy=strategy)
    randomize(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 6, 7, 7)
    for ours, eager in zip(gradients(layer, compiled, x), gradients(layer, layer, x), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.long
def test_the_network_is_one_graph_and_a_new_temperature_compiles_nothing() -> None:
    torch.manual_seed(0)
    model = dy_resnet18(width=0.0625, dropout=0.0)
    randomize(model)
    statistics = attach_statistics(model, "cpu")
    statistics.set_shards(2)
    images = torch.randn(4, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        results = []
        for temperature in (30.0, 1.0, 0.5):
            set_temperature(model, temperature)
            results.append(compiled(images))
            torch.testing.assert_close(results[-1], model(images))
    assert not torch.equal(results[0], results[1])


def test_statistics_are_collected_in_a_compiled_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(dy_resnet18(width=0.0625, dropout=0.0).layer1)
    statistics = attach_statistics(model, "cpu")
    statistics.set_shards(2)
    x = torch.randn(4, 4, 8, 8)
    eager = gradients(model, model, x)
    sums = statistics.flat.clone()
    statistics.zero()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(model, compiled, x), eager, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(statistics.flat, sums)


@pytest.mark.parametrize("strategy", ["auto", "mix"])
def test_exports_with_any_batch_size(strategy: str) -> None:
    layer = DynamicConv2d(6, 5, 3, padding=1, strategy=strategy).eval()
    randomize(layer)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (torch.randn(3, 6, 7, 7),), dynamic_shapes=({0: batch},))
    for images in (2, 5):
        x = torch.randn(images, 6, 7, 7)
        torch.testing.assert_close(program.module()(x), layer(x))
