from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dydist.models import DynamicConv2d, convert_to_dynamic, dy_resnet18, set_temperature
from dydist.monitor.probes.attention import AttentionStatistics
from dydist.monitor.probes.weights import kernel_products, similarity
from dydist.records import LayerAttention


def hand_set(kernels: int = 2) -> nn.Sequential:
    """One dynamic layer whose attention is softmax([m, 0, …]) for an image with mean m ≥ 0 in its one channel."""
    layer = DynamicConv2d(1, 1, 1, kernels=kernels, reduction=0.0)
    with torch.no_grad():
        layer.attention.fc1.weight.fill_(1.0)
        layer.attention.fc2.weight.zero_()
        layer.attention.fc2.weight[0].fill_(1.0)
        layer.attention.fc2.bias.zero_()
    return nn.Sequential(layer)


def look(model: nn.Module, *batches: torch.Tensor) -> dict[str, LayerAttention]:
    statistics = AttentionStatistics(model)
    statistics.begin()
    for batch in batches:
        model(batch)
    sums = statistics.end(torch.device("cpu"))
    assert sums.shape == (statistics.size,)
    return statistics.summarise(sums.tolist(), [0.0] * len(statistics.names))


def test_an_attention_computed_by_hand() -> None:
    """Means 0 and log 3: shares [1/2, 1/2] and [3/4, 1/4]; entropies 1 bit and 0.811278 bit."""
    images = torch.tensor([0.0, math.log(3)]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    layer = look(hand_set(), images)["0"]
    assert layer.share == pytest.approx((0.625, 0.375), abs=1e-6)
    assert layer.spread == pytest.approx((0.125, 0.125), abs=1e-6)
    assert layer.entropy == pytest.approx((1 + 0.8112781244591328) / 2, abs=1e-6)
    assert layer.dead == 0


def test_weights_below_zero_count_by_their_size() -> None:
    """Logits [0, 0] and [-4, 0] of l1: weights [1/2, 1/2] and [-3/4, 1/4]."""
    model = hand_set()
    model[0].attention.kind = "l1"
    with torch.no_grad():
        model[0].attention.fc2.weight[0].fill_(-1.0)
    images = torch.tensor([0.0, 4.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    layer = look(model, images)["0"]
    assert layer.share == pytest.approx((0.625, 0.375), abs=1e-6)
    assert layer.entropy == pytest.approx((1 + 0.8112781244591328) / 2, abs=1e-6)


def test_several_passes_count_as_one() -> None:
    images = torch.rand(6, 1, 4, 4)
    whole, parts = look(hand_set(3), images)["0"], look(hand_set(3), images[:4], images[4:])["0"]
    assert parts.share == pytest.approx(whole.share, abs=1e-6)
    assert parts.spread == pytest.approx(whole.spread, abs=1e-6)


def test_sums_of_processes_may_be_added() -> None:
    model, images = hand_set(), torch.rand(6, 1, 4, 4) * 3
    statistics = AttentionStatistics(model)
    total = torch.zeros(statistics.size)
    for part in (images[:1], images[1:]):
        statistics.begin()
        model(part)
        total += statistics.end(torch.device("cpu"))
    merged, whole = statistics.summarise(total.tolist(), [0.0])["0"], look(model, images)["0"]
    assert merged.share == pytest.approx(whole.share, abs=1e-6)
    assert merged.entropy == pytest.approx(whole.entropy, abs=1e-6)


def test_a_kernel_that_nobody_uses_is_dead() -> None:
    layer = look(hand_set(4), torch.full((3, 1, 2, 2), 6.0))["0"]
    assert layer.dead == 3
    assert layer.entropy < 0.05


def test_temperature_flattens_and_small_spreads_survive_float32() -> None:
    model = hand_set()
    set_temperature(model, 1000.0)
    layer = look(model, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))["0"]
    assert layer.entropy == pytest.approx(1.0, abs=1e-6)
    assert layer.spread[0] == pytest.approx(0.000125, rel=1e-3)


def test_layers_of_different_kernels_and_sigmoid() -> None:
    model = nn.Sequential(
        DynamicConv2d(3, 4, 1, kernels=2), DynamicConv2d(4, 4, 1, kernels=5, attention="sigmoid")
    )
    with torch.no_grad():
        model[1].attention.fc2.weight.zero_()
        model[1].attention.fc2.bias.zero_()
    found = look(model, torch.rand(3, 3, 8, 8))
    assert [len(layer.share) for layer in found.values()] == [2, 5]
    assert found["1"].share == pytest.approx((0.2,) * 5)  # sigmoids of 0.5 each, divided by their sum
    assert found["1"].entropy == pytest.approx(1.0, abs=1e-6)


def test_nothing_is_hooked_between_logged_steps() -> None:
    model = dy_resnet18(width=0.125)
    statistics = AttentionStatistics(model)
    assert len(statistics.names) == 19
    assert statistics.names[0] == "layer1.0.conv1"
    statistics.begin()
    statistics.end(torch.device("cpu"))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_without_attention_has_none() -> None:
    assert look(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.rand(1, 3, 2, 2)) == {}


def kernel_similarity(weight: torch.Tensor) -> torch.Tensor:
    return similarity(kernel_products(weight))


def test_kernel_similarity() -> None:
    assert kernel_similarity(torch.eye(4)).item() == pytest.approx(0.0, abs=1e-6)
    assert kernel_similarity(torch.ones(4, 3, 2)).item() == pytest.approx(1.0, abs=1e-6)
    pair = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    root = math.sqrt(0.5)
    assert kernel_similarity(pair).item() == pytest.approx((root - root - 1) / 3, abs=1e-6)
    assert math.isnan(kernel_similarity(torch.ones(1, 5)).item())


def test_a_converted_network_shows_alike_kernels() -> None:
    model = convert_to_dynamic(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), kernels=3)
    (name,) = AttentionStatistics(model).names
    assert 0.9 < kernel_similarity(model.get_submodule(name).weight).item() < 1
