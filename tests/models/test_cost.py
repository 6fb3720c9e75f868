"""Parameters and multiply-adds, against what is published and against convolutions counted one by one."""

from __future__ import annotations

import pytest
import torch

from dydist.models import DynamicConv2d, dy_resnet18, static_resnet18
from dydist.models.cost import network_cost


def test_resnet18_costs_what_torchvision_says() -> None:
    """https://pytorch.org/vision/stable/models: 11,689,512 parameters, 1.81 GFLOPS (multiply-adds) at 224 pixels."""
    with torch.device("meta"):
        cost = network_cost(static_resnet18(1000, stem="imagenet"), 224)
    assert cost.parameters == 11_689_512
    assert cost.multiply_adds == pytest.approx(1.814e9, rel=1e-3)


def test_dynamic_resnet18_costs_four_kernels_and_a_few_per_cent() -> None:
    """Chen et al., arXiv:1912.03458, table 6: ResNet-18 from 1.81 to 1.85 G multiply-adds, 42.7 M parameters."""
    with torch.device("meta"):
        cost = network_cost(dy_resnet18(1000, stem="imagenet"), 224)
    assert cost.parameters / 1e6 == pytest.approx(42.7 + 2.4, abs=1.5)
    assert 1.84e9 < cost.multiply_adds < 1.87e9


def test_one_layer_by_hand() -> None:
    layer = DynamicConv2d(8, 6, 3, stride=2, padding=1, groups=2, bias=True, kernels=5)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), layer).train()
    convolutions = 3 * 8 * 10 * 10 + 4 * 9 * 6 * 5 * 5
    mixing = 5 * (6 * 4 * 9 + 6)
    attention = 8 * 3 + 3 * 5
    before = network.training
    assert network_cost(network, 10).multiply_adds == convolutions + mixing + attention
    assert network.training is before
