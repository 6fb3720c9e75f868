"""Options of dynamic convolution beside the paper's: each against its definition, on every strategy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydist.config import ModelConfig
from dydist.config.rules import CONVOLUTIONS
from dydist.errors import UserError
from dydist.models import (
    DynamicConv2d,
    DynamicLinear,
    attach_statistics,
    build_model,
    convert_to_dynamic,
    dy_resnet18,
    set_temperature,
)
from dydist.models.attention import Attention
from dydist.models.initialization import reset_attention_
from dydist.models.strategies import STRATEGIES, Geometry
from helpers.reference import loop

ALL: dict[str, Any] = {
    "attention": "l1",
    "attention_norm": "batch",
    "attention_min_hidden": 16,
    "channel_attention": True,
}


def randomize(module: nn.Module) -> None:
    """Give every head, all of which start at zero, weights, and every batch norm statistics."""
    for part in module.modules():
        if isinstance(part, Attention):
            for head in (part.fc2, part.fc_in, part.fc_out):
                if head is not None:
                    nn.init.normal_(head.weight)
                    nn.init.normal_(head.bias)
            if part.norm is not None:
                nn.init.normal_(part.norm.weight)
                nn.init.normal_(part.norm.running_mean)


def expected(layer: DynamicConv2d, x: Tensor) -> Tensor:
    """The layer with all options, in evaluation mode, image by image."""
    attention = layer.attention
    assert attention.norm is not None
    assert attention.fc_in is not None
    assert attention.fc_out is not None
    norm = attention.norm
    hidden = x.mean((2, 3)) @ attention.fc1.weight.T
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    hidden = hidden.clamp(min=0)

    def logits(head: nn.Linear) -> Tensor:
        return (hidden @ head.weight.T + head.bias) / attention.temperature

    shares = 1 + logits(attention.fc2)
    inputs, outputs = (2 / (1 + (-logits(head)).exp()) for head in (attention.fc_in, attention.fc_out))
    geometry = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
    weights = shares / shares.abs().sum(1, keepdim=True)
    return (
        loop(x * inputs[:, :, None, None], weights, layer.weight, layer.bias, geometry)
        * outputs[:, :, None, None]
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_computes_all_options_together(strategy: str) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(16, 16, 3, padding=1, bias=True, strategy=strategy, **ALL).eval()
    randomize(layer)
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    set_temperature(layer, 3.0)
    x = torch.randn(3, 16, 5, 5)
    ours, theirs = layer(x), expected(layer, x)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(out.square().sum(), parameters) for out in (ours, theirs)]
    for name, one, other in zip(names, *gradients, strict=True):
        scale = float(other.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(one / scale, other / scale, atol=1e-4, rtol=1e-4)


def test_l1_weights_follow_their_definition() -> None:
    attention = Attention(8, 4, kind="l1").double()
    reset_attention_(attention)
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(x), torch.full((5, 4), 0.25, dtype=torch.float64))
    randomize(attention)
    set_temperature(attention, 0.5)
    weights = attention(x)
    shares = 1 + attention.fc2(attention.fc1(x).relu()) / 0.5
    torch.testing.assert_close(weights, shares / shares.abs().sum(1, keepdim=True))
    assert weights.min() < 0
    torch.testing.assert_close(weights.abs().sum(1), torch.ones(5, dtype=torch.float64))
    set_temperature(attention, math.inf)
    torch.testing.assert_close(attention(x), torch.full((5, 4), 0.25, dtype=torch.float64))


def test_l1_weights_that_vanish_are_finite_and_so_are_their_gradients() -> None:
    attention = Attention(8, 4, kind="l1")
    reset_attention_(attention)
    nn.init.constant_(attention.fc2.bias, -1.0)
    weights = attention(torch.randn(2, 8))
    weights.sum().backward()
    assert torch.equal(weights, torch.zeros(2, 4))
    assert all(p.grad is None or p.grad.isfinite().all() for p in attention.parameters())


@pytest.mark.parametrize(("kind", "square_sum"), [("softmax", 1 / 8), ("l1", 1 / 8), ("sigmoid", 2.0)])
def test_the_square_sum_is_that_of_the_initial_weights(kind: str, square_sum: float) -> None:
    layer = DynamicConv2d(16, 8, 3, kernels=8, attention=kind, attention_norm="batch")  # type: ignore[arg-type]
    weights = layer.attention(torch.randn(4, 16))
    assert layer.attention.uniform_weight_square_sum == square_sum
    torch.testing.assert_close(weights.square().sum(1), torch.full((4,), square_sum))


def test_the_hidden_layer_has_a_lower_limit() -> None:
    for limit, width in ((1, 3), (3, 3), (16, 16)):
        attention = Attention(8, 4, reduction=0.25, min_hidden=limit)
        assert attention.fc1.weight.shape == (width, 8)
        assert attention.fc2.weight.shape == (4, width)


def test_batch_norm_in_the_attention_is_torchs() -> None:
    attention = Attention(8, 4, norm="batch", min_hidden=16)
    plain = nn.BatchNorm1d(16)
    plain.load_state_dict(attention.norm.state_dict())  # type: ignore[union-attr]
    randomize(attention)
    plain.load_state_dict(attention.norm.state_dict())  # type: ignore[union-attr]
    x = torch.randn(6, 8)
    for training in (True, False):
        attention.train(training)
        plain.train(training)
        hidden = plain(attention.fc1(x)).relu()
        torch.testing.assert_close(attention(x), attention.fc2(hidden).softmax(1))
    torch.testing.assert_close(attention.norm.state_dict(), plain.state_dict())  # type: ignore[union-attr]


@pytest.mark.parametrize("leading", [(), (5,)])
def test_batch_norm_in_the_attention_is_by_shard(leading: tuple[int, ...]) -> None:
    """Two shards interleaved in one pass give what each gives in a pass of its own, and the same statistics."""
    torch.manual_seed(0)
    shape = (6, *leading, 8)
    layer = DynamicLinear(8, 4, attention_norm="batch")
    randomize(layer)
    statistics = attach_statistics(layer, "cpu")
    x = torch.randn(shape)
    apart = torch.empty(6, *leading, 4)
    for shard in range(2):
        apart[shard::2] = layer(x[shard::2])
    sums = statistics.flat.clone()
    assert sums.count_nonzero() == 6  # of three hidden units
    statistics.zero()
    statistics.set_shards(2)
    torch.testing.assert_close(layer(x), apart)
    torch.testing.assert_close(statistics.flat, sums)
    statistics.set_shards(1)
    assert not torch.allclose(layer(x), apart)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "l1"])
def test_channel_attention_changes_nothing_at_first(kind: str) -> None:
    layer = DynamicConv2d(6, 4, 3, bias=True, attention=kind, channel_attention=True)  # type: ignore[arg-type]
    plain = DynamicConv2d(6, 4, 3, bias=True, attention=kind)  # type: ignore[arg-type]
    missing, unexpected = plain.load_state_dict(layer.state_dict(), strict=False)
    assert not missing
    assert len(unexpected) == 4
    x = torch.randn(3, 6, 5, 5)
    assert torch.equal(layer(x), plain(x))


def test_a_depthwise_convolution_has_no_scale_of_the_output() -> None:
    layer = DynamicConv2d(6, 6, 3, groups=6, channel_attention=True)
    randomize(layer)
    assert layer.attention.fc_out is None
    x = torch.randn(2, 6, 5, 5)
    inputs, outputs = layer.attention.scales(layer.attention.hidden(x.mean((2, 3))))
    assert outputs is None
    assert inputs is not None
    plain = F.conv2d(x[:1] * inputs[:1, :, None, None], _mixed(layer, x[:1]), groups=6)
    torch.testing.assert_close(layer(x)[:1], plain)


def _mixed(layer: DynamicConv2d, x: Tensor) -> Tensor:
    """The mixed kernel of one image."""
    weights = layer.attention(x.mean((2, 3)))
    return (weights @ layer.weight.flatten(1)).view(layer.weight.shape[1:])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "l1"])
def test_spread_kernels_start_as_one_kernel(kind: str) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(64, 128, 3, attention=kind, spread=0.01)  # type: ignore[arg-type]
    x = torch.randn(1, 64, 3, 3)
    he = math.sqrt(2 / (128 * 9))
    mixed = _mixed(layer, x)
    assert mixed.std().item() == pytest.approx(he, rel=0.01)
    apart = (layer.weight - layer.weight.mean(0)).std().item() / layer.weight.mean(0).std().item()
    assert apart == pytest.approx(0.01 * math.sqrt(3 / 4), rel=0.02)
    if kind == "softmax":  # weights sum to one, whatever they are
        randomize(layer)
        assert layer.attention(x.mean((2, 3))).std() > 0.05
        assert (_mixed(layer, x) - mixed).std().item() < 0.01 * he


def test_without_options_the_initial_values_are_what_they_always_were() -> None:
    torch.manual_seed(5)
    layer = DynamicConv2d(8, 6, 3, kernels=4)
    torch.manual_seed(5)
    for size in ((3, 8), (4, 3)):  # nn.Linear draws, and is drawn again
        nn.Linear(size[1], size[0], bias=size[0] == 4)
    fc1 = nn.init.kaiming_normal_(torch.empty(3, 8))
    weight = torch.empty(4, 6, 8, 3, 3).normal_(std=math.sqrt(2 / (6 * 9) * 4))
    assert torch.equal(layer.attention.fc1.weight, fc1)
    assert torch.equal(layer.weight, weight)
    assert list(layer.state_dict()) == [
        "weight", "attention.fc1.weight", "attention.fc2.weight", "attention.fc2.bias",
    ]  # fmt: skip


def test_a_pattern_chooses_the_dynamic_layers() -> None:
    def dynamic(pattern: str) -> list[str]:
        with torch.device("meta"):
            model = dy_resnet18(width=0.0625, dynamic=pattern)
        ordinary = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
        found = [name for name, part in model.named_modules() if isinstance(part, DynamicConv2d)]
        assert sorted([*ordinary, *found]) == sorted(["conv1", *CONVOLUTIONS])
        return found

    assert sorted(dynamic("*")) == sorted(CONVOLUTIONS)
    assert dynamic("layer[34].*") == [n for n in CONVOLUTIONS if n.startswith(("layer3.", "layer4."))]
    assert dynamic("*.conv2") == [f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for pattern in ("conv1", "Layer4.*", ""):
        with pytest.raises(
            UserError, match=r"model.dynamic: '.*' matches none of the network's convolutions"
        ):
            dynamic(pattern)


def test_ordinary_layers_start_as_in_the_static_network() -> None:
    torch.manual_seed(0)
    model = dy_resnet18(width=0.25, dynamic="layer4.*")
    weight = model.layer1[0].conv1.weight
    assert weight.shape == (16, 16, 3, 3)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.1)


def test_a_configuration_makes_the_network_with_all_options() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=0.0625, dynamic="layer2.*", spread=0.1, **ALL), 10)
    layers = [part for part in model.modules() if isinstance(part, DynamicConv2d)]
    assert len(layers) == 5
    for layer in layers:
        assert layer.attention.kind == "l1"
        assert layer.attention.norm is not None
        assert layer.attention.fc1.out_features == 16
        assert layer.attention.fc_out is not None
        assert layer.spread == 0.1
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_converted_network_with_all_options_computes_the_same_at_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 4, 1)
    )
    x = torch.randn(4, 3, 8, 8)
    before = model(x)
    convert_to_dynamic(model, **ALL, spread=0.01)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    layer = model[3]
    assert isinstance(layer, DynamicConv2d)
    assert layer.attention.fc_in is not None
    apart = (layer.weight - layer.weight.mean(0)).std() / layer.weight.mean(0).std()
    assert 0 < apart < 0.02


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attention_norm": "layer"}, "model.attention_norm: 'layer' is not known; use none or batch"),
        ({"attention_min_hidden": 0}, "model.attention_min_hidden: 0 is not allowed; use 1 or more"),
        ({"spread": 0.0}, "model.spread: 0.0 is not allowed; it must be a number above 0"),
        ({"spread": math.nan}, "model.spread: nan is not allowed"),
    ],
)
def test_what_is_not_allowed(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DynamicConv2d(4, 4, 3, **arguments)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.long)])
def test_all_options_compile_to_one_graph(backend: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = DynamicConv2d(6, 5, 3, 2, 1, strategy="mix", **ALL)
    randomize(layer)
    x = torch.randn(4, 6, 7, 7)
    parameters = tuple(layer.parameters())
    outs = [call(x) for call in (torch.compile(layer, fullgraph=True, backend=backend), layer)]
    for one, other in zip(
        *(torch.autograd.grad(out.square().sum(), parameters) for out in outs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_all_options_export_with_any_batch_size() -> None:
    layer = DynamicConv2d(6, 5, 3, padding=1, strategy="mix", **ALL).eval()
    randomize(layer)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(layer, (torch.randn(3, 6, 7, 7),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 6, 7, 7)
    torch.testing.assert_close(program.module()(x), layer(x))
