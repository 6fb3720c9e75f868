"""The rule that chooses a layer's strategy by shape and device type only, the same on every machine."""

from __future__ import annotations

from dydist.models.strategies.problem import Shape
from dydist.models.strategies.winograd import is_supported

FEW_PIXELS = 8
"""`taps` up to this many output pixels: vectors would be half empty, and many taps would only cover padding."""
WINOGRAD_PIXELS, WINOGRAD_CHANNELS = 16, 16
"""`winograd` from this many output pixels and channels: with fewer, its vectors would be half empty."""
MANY_PIXELS = 256
"""Above this many output pixels, mixing kernels is cheap, and a library's convolution is faster than `fused`."""


def rule(shape: Shape, device: str = "cpu") -> str:
    """Name of the strategy for a layer of `shape` on a device type. Does not depend on the number of images.

    Per output channel and kernel, mixing kernels costs C_in/groups·k² multiply-adds, mixing outputs costs H·W.
    Measurements refine this rule (docs/notes/performance.md): on a GPU, multiplication is so much faster than mixing
    that a library convolution with K times the products wins. On a CPU, grouped and depthwise convolutions, whose
    kernels are small, go by this cost alone.
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
