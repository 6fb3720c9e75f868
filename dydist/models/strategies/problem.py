"""The sizes of one dynamic convolution, for strategies and the rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Stride, padding and dilation, each (vertical, horizontal) in pixels, and groups."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def output_size(self, size: Pair, kernel: Pair) -> Pair:
        """Height and width of the output for an input of `size` and a kernel of `kernel` pixels."""
        rows, columns = (
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        )
        return rows, columns


@dataclass(frozen=True)
class Shape:
    """Sizes of one dynamic convolution."""

    images: int
    kernels: int
    in_channels: int
    out_channels: int
    kernel: Pair
    output: Pair
    geometry: Geometry

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, geometry: Geometry) -> Shape:
        """The sizes for x [N, C, H, W] and weight [K, out, C/groups, kh, kw]."""
        kernel = (weight.shape[3], weight.shape[4])
        output = geometry.output_size((x.shape[2], x.shape[3]), kernel)
        return cls(x.shape[0], weight.shape[0], x.shape[1], weight.shape[1], kernel, output, geometry)

    @property
    def groups(self) -> int:
        """As in `torch.nn.functional.conv2d`."""
        return self.geometry.groups

    @property
    def pixels(self) -> int:
        """Output pixels of one channel of one image."""
        return math.prod(self.output)

    @property
    def fan_in(self) -> int:
        """Multiply-adds per output value."""
        return self.in_channels // self.groups * math.prod(self.kernel)
