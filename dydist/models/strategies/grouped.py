"""`grouped`: mixes a kernel per image, then runs one convolution with groups = images.

The reference implementation (Chen et al., arXiv:1912.03458). It suits large feature maps; on small ones, the N
kernels cost more memory traffic than the convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dydist.models.strategies.problem import Geometry


def grouped(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """See `dydist.models.strategies.dynamic_conv2d` for shapes."""
    images, channels, *size = x.shape
    kernels = (attention @ weight.flatten(1)).view(images * weight.shape[1], *weight.shape[2:])
    out = F.conv2d(
        x.reshape(1, images * channels, *size),
        kernels,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        images * geometry.groups,
    )
    return out.view(images, weight.shape[1], *out.shape[2:])
