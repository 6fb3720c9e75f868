"""Ways to compute a dynamic convolution, behind one function. All give the same values and gradients to
rounding.

- `grouped`: a kernel for every image, one convolution with groups = images
- `mix`: K convolutions, outputs mixed
- `auto`: one of them for each layer and shape, by cost (`choose.rule`)
"""

from dydist.models.strategies.choose import rule
from dydist.models.strategies.dispatch import NAMES, STRATEGIES, check_strategy, dynamic_conv2d
from dydist.models.strategies.problem import Geometry, Shape

__all__ = ["NAMES", "STRATEGIES", "Geometry", "Shape", "check_strategy", "dynamic_conv2d", "rule"]
