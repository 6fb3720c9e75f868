"""The entry point: checks shapes, casts for autocast, selects the strategy, adds the mixed bias.

To add a strategy, enter it in `STRATEGIES`, in `model.strategy` (`config/schema.py`), and, to have it measured where it
may be the fastest, in `candidates` (`models/measured.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dydist.errors import UserError
from dydist.models.strategies.blocked import blocked
from dydist.models.strategies.fused import fused
from dydist.models.strategies.grouped import grouped
from dydist.models.strategies.mix import mix
from dydist.models.strategies.problem import Geometry, Pair, Shape
from dydist.models.strategies.rule import rule
from dydist.models.strategies.stacked import stacked
from dydist.models.strategies.taps import taps
from dydist.models.strategies.winograd import winograd
from dydist.user_function import load_added

Strategy = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]

STRATEGIES: Mapping[str, Strategy] = {
    "grouped": grouped,
    "mix": mix,
    "blocked": blocked,
    "fused": fused,
    "winograd": winograd,
    "taps": taps,
    "stacked": stacked,
}
NAMES = ("auto", *STRATEGIES)
ADDED: dict[str, Strategy] = {}
"""Strategies of installed packages (entry points of `dydist.strategies`) that have been asked for."""


def check_strategy(name: str) -> str:
    """Return `name`, or raise UserError if there is no such strategy."""
    if name not in NAMES and name not in ADDED:
        if (added := load_added("dydist.strategies", name)) is None:
            raise UserError(f"model.strategy: {name!r} is not known; use one of {', '.join(NAMES)}")
        ADDED[name] = added
    return name


def dynamic_conv2d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    strategy: str = "auto",
) -> Tensor:
    """Convolve each image with its own mixture of kernels (Chen et al., arXiv:1912.03458, eq. 3 and 4).

    Image n is convolved with Σ_k attention[n, k] · weight[k], and Σ_k attention[n, k] · bias[k] is added.

    Args:
        x: images [N, C, H, W], any floating dtype.
        attention: π [N, K], in x's dtype (autocast apart).
        weight: kernels [K, out, C/groups, kh, kw].
        bias: [K, out] or None.
        stride, padding, dilation: (vertical, horizontal), pixels; padding is zeros.
        groups: as in `torch.nn.functional.conv2d`.
        strategy: one of `NAMES`, or one that an installed package adds; others raise UserError. Without gradients, one
            image, or images that all have the same attention, get one mixed kernel and one ordinary convolution with
            any strategy.

    Returns [N, out, H', W']. Under autocast everything is cast to autocast's dtype, as for `conv2d`. Raises
    ValueError for shapes that do not fit one another, TypeError for dtypes that differ.
    """
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # the meta device has no autocast
        dtype = torch.get_autocast_dtype(device)
        x, attention, weight = x.to(dtype), attention.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(device, enabled=False):
            return _compute(x, attention, weight, bias, Geometry(stride, padding, dilation, groups), strategy)
    return _compute(x, attention, weight, bias, Geometry(stride, padding, dilation, groups), strategy)


def _compute(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, strategy: str
) -> Tensor:
    name = check_strategy(strategy)
    _check(x, attention, weight, geometry)
    if _one_kernel_for_all(x, attention):
        kernel = (attention[:1] @ weight.flatten(1)).view(weight.shape[1:])
        out = F.conv2d(x, kernel, None, *geometry)
    else:
        if name == "auto":
            name = rule(Shape.of(x, weight, geometry), x.device.type)
        if x.shape[0] == 0:  # The last part of a split may be empty; `mix` handles that.
            name = "mix"
        strategy_of_name = STRATEGIES.get(name) or ADDED[name]
        out = strategy_of_name(x, attention, weight, geometry)
    return out if bias is None else out + (attention @ bias)[:, :, None, None]


def _check(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> None:
    """Raise if shapes or dtypes disagree: native kernels trust the sizes that they are given."""
    fits = x.ndim == 4 and weight.ndim == 5 and attention.shape == (x.shape[0], weight.shape[0])
    if not fits or x.shape[1] != weight.shape[2] * geometry.groups or weight.shape[1] % geometry.groups:
        raise ValueError(
            f"x {tuple(x.shape)}, attention {tuple(attention.shape)} and weight {tuple(weight.shape)} do not fit one "
            f"another with groups={geometry.groups}: [N, C, H, W], [N, K] and [K, out, C/groups, kh, kw] are asked for"
        )
    if not x.dtype == attention.dtype == weight.dtype:
        raise TypeError(
            f"x, attention and weight differ in dtype: {x.dtype}, {attention.dtype}, {weight.dtype}"
        )


def _one_kernel_for_all(x: Tensor, attention: Tensor) -> bool:
    """Whether one mixed kernel serves the whole batch. Compares values on the CPU only."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.shape[0] == 0:
        return False
    return x.shape[0] == 1 or (x.device.type == "cpu" and bool((attention == attention[:1]).all()))
