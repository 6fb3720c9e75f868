"""Which strategy suits a layer: by a rule on its shape alone, the same on every machine."""

from __future__ import annotations

from dydist.models.strategies.problem import Shape


def rule(shape: Shape) -> str:
    """Name of the strategy with the least memory traffic a output channel: kernels to mix, or outputs to mix.

    A mixed kernel has C_in/groups·k² values an output channel and image; K outputs to mix have K·H·W.
    """
    return "grouped" if shape.fan_in < shape.kernels * shape.pixels else "mix"
