"""The reference implementation of dynamic convolution, with which `dydist bench` compares.

It follows the public implementations: pooling, two 1x1 convolutions, softmax; the mixed kernels of all images as one
matrix product; one convolution with groups = images. Autograd saves everything for the backward pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReferenceDynamicConv2d(nn.Module):
    """Images [N, C, H, W] → [N, out, H', W'] with K kernels and temperature 30."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        kernels: int = 4,
    ) -> None:
        super().__init__()
        hidden = int(in_channels * 0.25) + 1
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, kernels, 1),
            nn.Flatten(),
        )
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight[0])
        with torch.no_grad():
            self.weight[1:] = self.weight[:1]
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        images, channels, height, width = x.shape
        kernels, out_channels = self.weight.shape[:2]
        attention = F.softmax(self.attention(x) / 30.0, 1)
        mixed = torch.mm(attention, self.weight.view(kernels, -1)).view(-1, *self.weight.shape[2:])
        out = F.conv2d(
            x.reshape(1, images * channels, height, width),
            mixed,
            stride=self.stride,
            padding=self.padding,
            groups=images,
        )
        return out.view(images, out_channels, *out.shape[2:])
