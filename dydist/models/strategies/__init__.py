"""Ways to compute a dynamic convolution, behind one function. All give the same values and gradients to
rounding.

- `grouped`: a kernel for every image, one convolution with groups = images (what public code does)
- `mix`: K convolutions, outputs mixed
- `blocked`: kernels for a few images at a time, built again in the backward pass
- `fused`: C++ kernels that mix a tile of a kernel in cache and use it there
- `winograd`: the same in Winograd's form, for 3x3 kernels with stride 1
- `taps`: matrix products by tap, for maps of a few pixels
- `stacked`: one convolution of all K kernels over inputs scaled by the attention, for GPUs (`stacked_kernels`: what
  Triton does for it)
- `auto`: one of them for each layer and shape: by `rule`, or as measured (`dydist.models.choice`)

`custom` makes operators of those with a gradient of their own; `problem` holds their sizes; `native`
builds C++.
"""

from dydist.models.strategies.dispatch import NAMES, STRATEGIES, check_strategy, dynamic_conv2d
from dydist.models.strategies.problem import Geometry, Shape
from dydist.models.strategies.rule import rule

__all__ = ["NAMES", "STRATEGIES", "Geometry", "Shape", "check_strategy", "dynamic_conv2d", "rule"]
