"""The cost of a network: parameters, and multiply-adds per image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dydist.models.dynamic_conv import DynamicConv2d


@dataclass(frozen=True)
class Cost:
    """`multiply_adds`: of convolutions, linear layers and the mixing of kernels, for one image.

    Batch norm, activations and pooling are not counted, as is usual.
    """

    parameters: int
    multiply_adds: int


def network_cost(network: nn.Module, side: int) -> Cost:
    """Parameters of `network`, and its multiply-adds for one image of 3 × `side` × `side` pixels.

    A dynamic convolution is counted as in Chen et al. (arXiv:1912.03458, section 3.2): one convolution, its
    attention, and K multiply-adds per weight of the mixed kernel. A strategy may need more (docs/performance.md).
    Also works on the meta device, without computing. Does not change weights.
    """
    total = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, DynamicConv2d):
            kernel = layer.weight[0]
            mixed = kernel.numel() + (0 if layer.bias is None else layer.out_channels)
            total += kernel[0].numel() * output[0].numel() + layer.kernels * mixed
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight[0].numel() * output[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel() * math.prod(output.shape[1:-1])

    counted = (DynamicConv2d, nn.Conv2d, nn.Linear)
    handles = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, counted)]
    training = network.training
    parameter = next(network.parameters())
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, side, side, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    return Cost(sum(p.numel() for p in network.parameters()), total)
