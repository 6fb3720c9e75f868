"""Keyed draws: masks that a network draws in its forward pass, as functions of (seed, step, shard).

All kinds of dropout in torch, and modules such as torchvision's StochasticDepth and timm's DropPath, call
a few operators that draw Bernoulli or uniform numbers. `KeyedDraws` computes these instead, below autograd, from
a generator keyed by seed, step, shard and the number of the draw. Other operators that draw are left as they are:
`examine` finds and names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from dydist.data.pinned import pinned
from dydist.randomness import generator

aten = torch.ops.aten
Uniform = Callable[[Sequence[int], torch.device], Tensor]
"""Numbers in [0, 1), float32 of this shape, on this device."""

DIGITS = {torch.bfloat16: 8, torch.float16: 11}
"""Binary digits of a number's significand."""


class KeyedDraws(TorchDispatchMode):
    """While entered, masks are drawn by key; enter it around one forward pass of a network.

    `images`: the number of images of the pass. Each of the s `shards` has equally many, interleaved: row i·s + j is
    image i of shard j. With one shard, a draw of any shape depends only on (seed, step, shard). With several, this
    is true if the first dimension is the images (or images times windows or heads), or the second one is the images.
    Other draws, such as one number for the whole batch, are keyed by the first shard.
    """

    def __init__(self, seed: int, step: int, shards: Sequence[int], images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._key, self._shards, self._images = (seed, step), shards, images
        self._draws = 0
        self._stack = ExitStack()

    def __enter__(self) -> KeyedDraws:
        # fused attention kernels draw dropout masks internally; the math backend calls dropout
        self._stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replaced = KEYED.get(func)
        if replaced is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return replaced(self._uniform, *args, **kwargs)

    def _uniform(self, size: Sequence[int], device: torch.device) -> Tensor:
        seed, step = self._key
        draws = [generator(seed, "network", step, shard, self._draws) for shard in self._shards]
        self._draws += 1
        axis = next((axis for axis, length in enumerate(size[:2]) if self._is_of_images(axis, length)), None)
        if len(draws) == 1 or axis is None:
            return pinned(draws[0].random(tuple(size), dtype=np.float32), device).to(
                device, non_blocking=True
            )
        before, (length, *after) = tuple(size[:axis]), size[axis:]
        each = (*before, self._images // len(draws), length // self._images, *after)
        parts = [draw.random(each, dtype=np.float32) for draw in draws]
        whole = np.stack(parts, axis=axis + 1).reshape(tuple(size))
        return pinned(whole, device).to(device, non_blocking=True)

    def _is_of_images(self, axis: int, length: int) -> bool:
        return length == self._images or (axis == 0 and length > 0 and length % self._images == 0)


def _bernoulli_(uniform: Uniform, target: Tensor, p: float | Tensor = 0.5, **_: Any) -> Tensor:
    return target.copy_(uniform(target.shape, target.device) < p)


def _bernoulli(uniform: Uniform, probabilities: Tensor, p: float | None = None, **_: Any) -> Tensor:
    drawn = uniform(probabilities.shape, probabilities.device) < (probabilities if p is None else p)
    return drawn.to(probabilities.dtype)


def _uniform_(uniform: Uniform, target: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    drawn = _below_one(uniform(target.shape, target.device), target.dtype)
    return target.copy_(drawn).mul_(high - low).add_(low)


def _rand(
    uniform: Uniform, size: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> Tensor:
    return _below_one(uniform(size, torch.device(device or "cpu")), dtype or torch.get_default_dtype())


def _rand_like(
    uniform: Uniform, like: Tensor, *, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> Tensor:
    return _below_one(uniform(like.shape, torch.device(device or like.device)), dtype or like.dtype)


def _below_one(drawn: Tensor, dtype: torch.dtype) -> Tensor:
    """`drawn` in `dtype`, rounded down if it has fewer digits: otherwise 0.999 could become 1."""
    if (digits := DIGITS.get(dtype)) is not None:
        drawn = (drawn * 2**digits).floor_() / 2**digits
    return drawn.to(dtype)


def _native_dropout(uniform: Uniform, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = uniform(x.shape, x.device) < 1 - p
    return x * kept * (0.0 if p == 1 else 1 / (1 - p)), kept


KEYED: dict[Any, Callable[..., Any]] = {
    aten.bernoulli_.float: _bernoulli_,
    aten.bernoulli_.Tensor: _bernoulli_,
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli.p: _bernoulli,
    aten.uniform_.default: _uniform_,
    aten.rand.default: _rand,
    aten.rand_like.default: _rand_like,
    aten.native_dropout.default: _native_dropout,
}
"""The operators that are replaced. Each takes the source of uniform numbers, then the operator's own arguments."""
