"""`mix`: convolves every image with all K kernels, then mixes the K outputs.

Costs K times the static convolution; needs no kernel per image.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dydist.models.strategies.problem import Geometry


def mix(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """See `dydist.models.strategies.dynamic_conv2d` for shapes."""
    kernels, out_channels = weight.shape[:2]
    groups = geometry.groups
    # A convolution orders its outputs by group, so the K kernels of a group must be adjacent.
    by_group = weight.unflatten(1, (groups, out_channels // groups)).transpose(0, 1)
    out = F.conv2d(
        x, by_group.flatten(0, 2), None, geometry.stride, geometry.padding, geometry.dilation, groups
    )
    size = out.shape[2:]
    each = out.reshape(x.shape[0], groups, kernels, out_channels // groups * size.numel())
    return (attention[:, None, None] @ each).view(x.shape[0], out_channels, *size)
