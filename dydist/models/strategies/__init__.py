"""Implementations of dynamic convolution behind one function. All give the same values and gradients up to rounding.

- `grouped`: a kernel per image, one convolution with groups = images (the reference implementation)
- `mix`: K convolutions, whose outputs are mixed
- `blocked`: as `grouped` for a few images at a time; kernels are recomputed in the backward pass
- `fused`: C++ that mixes a tile of a kernel in cache and uses it there
- `winograd`: `fused` as a Winograd convolution, for 3x3 kernels with stride 1
- `taps`: a matrix product per tap, for feature maps of a few pixels
- `stacked`: one convolution of all K kernels over inputs scaled by the attention, for GPUs (`stacked_kernels`: its
  Triton kernels)
- `auto`: one of them for each layer: by `rule`, or by measurement (`dydist.models.choice`)

`custom` registers torch operators with custom gradients; `problem` describes sizes; `native` builds the C++ kernels.
"""

from dydist.models.strategies.dispatch import NAMES, STRATEGIES, check_strategy, dynamic_conv2d
from dydist.models.strategies.problem import Geometry, Shape
from dydist.models.strategies.rule import rule

__all__ = ["NAMES", "STRATEGIES", "Geometry", "Shape", "check_strategy", "dynamic_conv2d", "rule"]
