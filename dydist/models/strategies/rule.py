"""Which strategy suits a layer: by a rule on its shape alone, the same on every machine of a kind."""

from __future__ import annotations

from dydist.models.strategies.problem import Shape
from dydist.models.strategies.winograd import is_supported

FEW_PIXELS = 8
"""Up to so many output pixels, `taps`: vectors would be half empty, and many taps meet only padding."""
WINOGRAD_PIXELS, WINOGRAD_CHANNELS = 16, 16
"""From so many output pixels and channels on, `winograd`: with fewer, its vectors of channels and its sums would be
half empty."""
MANY_PIXELS = 256
"""Beyond so many, mixing kernels costs next to nothing, and a library's convolution is faster than `fused`."""


def rule(shape: Shape, device: str = "cpu") -> str:
    """Name of the strategy for a layer of `shape` on a device type. Does not depend on the number of images.

    A mixed kernel costs C_in/groups·k² multiply-adds an output channel and kernel, mixed outputs cost H·W:
    mix kernels where the first is less. That is refined by where each strategy was measured to be best
    (docs/notes/performance.md): a GPU multiplies so much faster than it mixes that its library's convolution wins
    with K times the products. On a CPU grouped and depthwise convolutions have small kernels and go by the cost
    alone.
    """
    by_cost = "blocked" if shape.fan_in < shape.kernels * shape.pixels else "mix"
    if device != "cpu" and shape.kernels > 1 and (shape.groups > 1 or shape.pixels > 1):
        return "stacked"
    if shape.groups > 1 or shape.kernels == 1:
        return by_cost
    if shape.pixels == 1 or (shape.pixels <= FEW_PIXELS and shape.kernel != (1, 1)):
        return "taps"
    filled = min(shape.in_channels, shape.out_channels) >= WINOGRAD_CHANNELS
    if filled and shape.pixels >= WINOGRAD_PIXELS and is_supported(shape.kernel, shape.geometry):
        return "winograd"
    return "fused" if shape.pixels <= MANY_PIXELS else "blocked"
