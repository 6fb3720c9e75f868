"""DynamicConv2d, DynamicLinear and their attention: the contract, the identity cases, initial values."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dydist.errors import UserError
from dydist.models import DynamicConv2d, DynamicLinear, set_temperature
from dydist.models.attention import Attention
from helpers.dynamic_networks import randomize


def test_shapes_of_the_contract() -> None:
    layer = DynamicConv2d(64, 32, 3, 2, 1, groups=4, bias=True, kernels=5, reduction=0.25)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "weight": (5, 32, 16, 3, 3),
        "bias": (5, 32),
        "attention.fc1.weight": (17, 64),
        "attention.fc2.weight": (5, 17),
        "attention.fc2.bias": (5,),
    }
    assert layer(torch.randn(2, 64, 9, 7)).shape == (2, 32, 5, 4)
    assert DynamicConv2d(3, 8, 3).attention.fc1.weight.shape == (4, 3)
    assert DynamicConv2d(4, 4, 1).bias is None


@pytest.mark.parametrize("strategy", ["grouped", "mix", "auto"])
def test_one_kernel_is_an_ordinary_convolution(strategy: str) -> None:
    layer = DynamicConv2d(6, 4, 3, 2, 1, 2, 2, bias=True, kernels=1, strategy=strategy).double()
    randomize(layer)
    x = torch.randn(3, 6, 9, 9, dtype=torch.float64)
    assert layer.bias is not None
    expected = F.conv2d(x, layer.weight[0], layer.bias[0], 2, 1, 2, 2)
    torch.testing.assert_close(layer(x), expected)


def test_infinite_temperature_is_the_mean_of_the_kernels() -> None:
    layer = DynamicConv2d(6, 4, 3, padding=1).double()
    randomize(layer)
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    mean = F.conv2d(x, layer.weight.mean(0), padding=1)
    assert not torch.allclose(layer(x), mean)
    set_temperature(layer, math.inf)
    torch.testing.assert_close(layer(x), mean)


def test_low_temperature_picks_one_kernel() -> None:
    layer = DynamicConv2d(6, 4, 1).double()
    randomize(layer)
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    choice = layer.attention(x.mean((2, 3))).argmax(1)
    set_temperature(layer, 1e-6)
    expected = torch.cat([F.conv2d(x[i : i + 1], layer.weight[choice[i]]) for i in range(3)])
    torch.testing.assert_close(layer(x), expected)


def test_attention_follows_its_definition() -> None:
    attention = Attention(8, 3).double()
    randomize(attention)
    set_temperature(attention, 7.0)
    x = torch.randn(5, 8, dtype=torch.float64)
    hidden = (x @ attention.fc1.weight.T).clamp(min=0)
    logits = (hidden @ attention.fc2.weight.T + attention.fc2.bias) / 7.0
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(attention(x), weights)
    assert attention(x).std(0).min() > 0


def test_sigmoid_attention() -> None:
    attention = Attention(8, 3, kind="sigmoid").double()
    randomize(attention)
    x = torch.randn(5, 8, dtype=torch.float64)
    hidden = (x @ attention.fc1.weight.T).clamp(min=0)
    torch.testing.assert_close(attention(x), torch.sigmoid(attention.fc2(hidden)))


def test_temperature_is_outside_the_state_and_set_in_place() -> None:
    layer = DynamicConv2d(4, 4, 1)
    place = layer.temperature.data_ptr()
    set_temperature(nn.Sequential(nn.Sequential(layer)), 30.0)
    assert layer.temperature.item() == 30.0
    assert layer.temperature.data_ptr() == place
    assert not any("temperature" in name for name in layer.state_dict())
    assert dict(layer.named_buffers())["attention.temperature"] is layer.temperature
    assert copy.deepcopy(layer).to(torch.float64).temperature.item() == 30.0
    assert layer.to("meta").temperature.device.type == "meta"


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_temperature_must_be_above_zero(value: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        set_temperature(DynamicConv2d(4, 4, 1), value)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kernels", [1, 4, 8])
def test_the_mixed_kernel_has_he_variance(kind: str, kernels: int) -> None:
    torch.manual_seed(0)
    layer = DynamicConv2d(64, 128, 3, kernels=kernels, attention=kind)  # type: ignore[arg-type]
    pi = layer.attention(torch.randn(1, 64))
    mixed = (pi @ layer.weight.flatten(1)).std().item()
    assert mixed == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.01)
    assert layer.attention.uniform_weight_square_sum == pytest.approx(pi.square().sum().item())


def test_construction_is_deterministic() -> None:
    def make() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return DynamicConv2d(8, 8, 3, bias=True).state_dict()

    first, second = make(), make()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groups": 3}, "groups: 3"),
        ({"kernels": 0}, "model.kernels: 0"),
        ({"strategy": "x"}, "model.strategy: 'x'"),
        ({"attention": "x"}, "model.attention: 'x'"),
    ],
)
def test_what_is_not_allowed(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DynamicConv2d(4, 4, 3, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_dynamic_linear_equals_a_loop_over_vectors(bias: bool, leading: tuple[int, ...]) -> None:
    layer = DynamicLinear(6, 4, bias, kernels=3).double()
    randomize(layer)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(*leading, 6, dtype=torch.float64)
    outputs = []
    for vector in x.reshape(-1, 6):
        pi = layer.attention(vector)
        weight = torch.einsum("k,koi->oi", pi, layer.weight)
        outputs.append(F.linear(vector, weight, None if layer.bias is None else pi @ layer.bias))
    torch.testing.assert_close(layer(x), torch.stack(outputs).view(*leading, 4))


def test_dynamic_linear_with_one_kernel_is_linear() -> None:
    layer = DynamicLinear(6, 4, kernels=1)
    x = torch.randn(5, 6)
    assert layer.bias is not None
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight[0], layer.bias[0]))


def test_layers_print_what_they_are() -> None:
    assert "6, 4, kernel_size=(3, 3), stride=(1, 1), groups=2, bias=False" in repr(
        DynamicConv2d(6, 4, 3, groups=2)
    )
    assert "6, 4, bias=True, kernels=4" in repr(DynamicLinear(6, 4))
