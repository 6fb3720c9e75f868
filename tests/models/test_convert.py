"""convert_to_dynamic: real networks, which layers, and that nothing changes at first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dydist.data.torchvision_shim import import_torchvision
from dydist.errors import UserError
from dydist.models import DynamicConv2d, convert_to_dynamic


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("resnet50", "softmax"),
        ("mobilenet_v2", "sigmoid"),
        pytest.param("resnet50", "sigmoid", marks=pytest.mark.long),
        pytest.param("mobilenet_v2", "softmax", marks=pytest.mark.long),
    ],
)
def test_a_converted_network_computes_the_same_at_first(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, name)(num_classes=10).eval()
    convolutions = sum(isinstance(part, nn.Conv2d) for part in model.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        assert convert_to_dynamic(model, attention=attention) is model  # type: ignore[arg-type]
        after = model(images)
    assert sum(isinstance(part, DynamicConv2d) for part in model.modules()) == convolutions - 1
    assert sum(isinstance(part, nn.Conv2d) for part in model.modules()) == 1
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * before.abs().max().item())


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 4, 1), nn.Flatten()
    )


def test_the_kernels_learn_different_things() -> None:
    """K equal kernels under uniform attention would stay equal for ever."""
    torch.manual_seed(0)
    model = convert_to_dynamic(small())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layer = model[1]
    assert isinstance(layer, DynamicConv2d)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 6, 6)).square().mean().backward()
        optimizer.step()
    assert layer.attention.fc2.weight.abs().max() > 0
    assert layer.attention.fc1.weight.grad is not None
    assert layer.attention.fc1.weight.grad.abs().max() > 0
    assert layer.weight.std(0).min() > 0


def test_a_predicate_chooses() -> None:
    model = convert_to_dynamic(small(), predicate=lambda name, conv: conv.kernel_size == (3, 3), kernels=2)
    assert [isinstance(part, DynamicConv2d) for part in model] == [True, True, False, False]
    assert isinstance(model[0], DynamicConv2d)
    assert model[0].kernels == 2
    assert model[0].bias is not None
    assert isinstance(model[1], DynamicConv2d)
    assert model[1].bias is None


def test_what_a_layer_was_is_kept() -> None:
    model = small().double().eval()
    model[2].weight.requires_grad_(False)
    convert_to_dynamic(model)
    layer = model[2]
    assert isinstance(layer, DynamicConv2d)
    assert layer.weight.dtype == torch.float64
    assert layer.weight.requires_grad is False
    assert layer.bias is not None
    assert layer.bias.requires_grad is True
    assert layer.training is False


def test_a_module_used_twice_stays_one_module() -> None:
    shared = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Sequential(shared), shared)
    convert_to_dynamic(model)
    assert model[1] is model[3]
    assert model[1] is model[2][0]  # type: ignore[index]


def test_a_single_convolution_by_predicate() -> None:
    source = nn.Conv2d(3, 4, 3)
    made = convert_to_dynamic(source, predicate=lambda name, conv: True)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(made(x), source(x))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "none of the 0 convolutions of Linear"),
        (nn.Conv2d(3, 3, 3), "none of the 1 convolutions of Conv2d"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")),
            "1 pads by reflect",
        ),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding="same")), "'same'"),
    ],
)
def test_what_cannot_be_converted(model: nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=words):
        convert_to_dynamic(model)
