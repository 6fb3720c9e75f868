"""A small network with a dynamic convolution, attention that depends on the image, and flags of its options."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dydist.models import DynamicConv2d, ShardBatchNorm2d
from dydist.models.attention import Attention

EVERY_ATTENTION_OPTION = (
    *("--model.attention", "l1", "--model.attention_norm", "batch", "--model.attention_min_hidden", "16"),
    *("--model.channel_attention", "true", "--model.spread", "0.1", "--model.dynamic", "layer[34].*"),
)


class Small(nn.Module):
    """One dynamic convolution, batch norm by shard, dropout's mask and a classifier: every part of a real network."""

    features = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = DynamicConv2d(3, 6, 3, 2, 1)
        self.bn = ShardBatchNorm2d(6)
        self.fc = nn.Linear(6, 10)

    def forward(self, images: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        pooled = torch.relu(self.bn(self.conv(images))).mean((2, 3))
        return self.fc(pooled if dropout_mask is None else pooled * dropout_mask)


def randomize(module: nn.Module, scale: float = 1.0) -> None:
    """Give the attention's last layer weights, which start at zero, so that images differ."""
    for part in module.modules():
        if isinstance(part, Attention):
            nn.init.normal_(part.fc2.weight, std=scale)
            nn.init.normal_(part.fc2.bias, std=scale)
