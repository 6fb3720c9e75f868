"""Networks as users write them, which know nothing of dydist: for `model.factory`."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Plain(nn.Module):
    """Convolutions, batch norm of three kinds, and three ways to drop values."""

    def __init__(self, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.bn2 = nn.SyncBatchNorm(2 * width)
        self.drop = nn.Dropout2d(dropout)
        self.hidden = nn.Linear(2 * width, 16)
        self.bn3 = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, classes)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.drop(F.relu(self.bn2(self.conv2(x)))).mean((2, 3))
        x = F.dropout(F.relu(self.bn3(self.hidden(x))), self.dropout, self.training)
        if self.training:  # a row of the batch is left out as a whole, as stochastic depth does
            x = x * torch.rand(len(x), 1, device=x.device).add(0.8).floor()
        logits: Tensor = self.head(x)
        return logits


def plain(
    num_classes: int, image_shape: tuple[int, int, int], *, width: int = 4, dropout: float = 0.2
) -> Plain:
    """A factory that takes the two arguments in order, and options."""
    assert image_shape[0] == 3
    return Plain(num_classes, width, dropout)


def partly_frozen(num_classes: int, image_shape: tuple[int, int, int]) -> Plain:
    """Its first convolution and one bias are not trained."""
    network = plain(num_classes, image_shape, dropout=0.0)
    network.conv1.requires_grad_(False)
    network.hidden.bias.requires_grad_(False)
    return network


class Noise(nn.Module):
    """Adds noise that cannot be keyed."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


class NumpyNoise(nn.Module):
    """Draws from the generator that all of numpy shares."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand())


class PythonNoise(nn.Module):
    """Draws from Python's own generator."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


class Centred(nn.Module):
    """Subtracts the mean over all images of the batch, and so mixes them."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class OrderOfASet(nn.Module):
    """Sums in the order of a set of strings, which is another in each interpreter."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for name in {f"part{number}" for number in range(9)}:
            total = total + x * 1.1 ** int(name[4:])
        return total


class Moving(nn.Module):
    """Keeps a moving mean of its input, as no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(), alpha=0.1)  # type: ignore[operator]
        return x - self.mean  # type: ignore[operator]


class Counting(nn.Module):
    """Depends on how often it was called, which nobody saves."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * (1 + 0.01 * self.calls)


class Checkpointed(nn.Module):
    """Computes its dropout a second time in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(F.dropout, x, 0.5, self.training, use_reentrant=False) if self.training else x  # type: ignore[no-any-return]


DRAWING = (Noise, NumpyNoise, PythonNoise)
SUSPECTS: dict[str, type[nn.Module]] = {
    one.__name__: one for one in (*DRAWING, Moving, Counting, Checkpointed, Centred, OrderOfASet)
}


def suspect(num_classes: int, *, kind: str) -> nn.Module:
    """A network with one module that breaks the promise, under the name body.middle."""
    body = nn.Sequential()
    body.add_module("conv", nn.Conv2d(3, 4, 3, 4))
    body.add_module("middle", SUSPECTS[kind]())
    return nn.Sequential(*_named(body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def _named(body: nn.Sequential) -> list[nn.Module]:
    outer = nn.Sequential()
    outer.add_module("body", body)
    return [outer]
