"""Registers a strategy with a custom gradient as a torch operator: opaque to torch.compile, with autograd.

Such a strategy saves only its inputs for the backward pass, which recomputes the mixed kernels. Second derivatives
(create_graph=True) go through `mix`, which has the same gradients and consists of differentiable operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dydist.models.strategies.mix import mix
from dydist.models.strategies.problem import Geometry

Forward = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Geometry, tuple[bool, bool]], tuple[Tensor, Tensor, Tensor]
]
"""(gradient of the output, x, attention, weight, geometry, (whether x, whether attention and weight need a gradient))
→ gradients of x, attention and weight; an empty tensor for one that is not needed."""

_FORWARD = "(Tensor x, Tensor attention, Tensor weight, int[] geometry) -> Tensor"
_BACKWARD = (
    "(Tensor grad, Tensor x, Tensor attention, Tensor weight, int[] geometry, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor)"
)


def operator(name: str, forward: Forward, backward: Backward) -> Forward:
    """Register the operator dydist::`name` and its gradient; return a function that calls it.

    Both functions take and return contiguous tensors.
    """

    def run_forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
        return forward(x.contiguous(), attention.contiguous(), weight.contiguous(), _unpack(geometry))

    def run_backward(
        grad: Tensor, x: Tensor, attention: Tensor, weight: Tensor, geometry: list[int], wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, x, attention, weight = (tensor.contiguous() for tensor in (grad, x, attention, weight))
        return backward(grad, x, attention, weight, _unpack(geometry), (wanted[0], wanted[1]))

    def like_forward(x: Tensor, attention: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
        size = _unpack(geometry).output_size((x.shape[2], x.shape[3]), (weight.shape[3], weight.shape[4]))
        return x.new_empty(x.shape[0], weight.shape[1], *size)

    def like_backward(
        grad: Tensor, x: Tensor, attention: Tensor, weight: Tensor, geometry: list[int], wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        made = [
            t.new_empty(t.shape if want else (0,))
            for t, want in ((x, wanted[0]), (attention, wanted[1]), (weight, wanted[1]))
        ]
        return made[0], made[1], made[2]

    apply = torch.library.custom_op(f"dydist::{name}", run_forward, mutates_args=(), schema=_FORWARD)
    gradient = torch.library.custom_op(
        f"dydist::{name}_backward", run_backward, mutates_args=(), schema=_BACKWARD
    )
    apply.register_fake(like_forward)
    gradient.register_fake(like_backward)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.geometry = inputs[3]

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, attention, weight = ctx.saved_tensors
        need = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (*_through_mix(grad, (x, attention, weight), need, ctx.geometry), None)
        wanted = [need[0], need[1] or need[2]]
        made = gradient(grad, x, attention, weight, ctx.geometry, wanted)
        return (*(value if want else None for value, want in zip(made, need, strict=False)), None)

    apply.register_autograd(differentiate, setup_context=setup)

    def call(x: Tensor, attention: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        result: Tensor = apply(x, attention, weight, _pack(geometry))
        return result

    return call


def _through_mix(
    grad: Tensor, inputs: tuple[Tensor, ...], need: tuple[bool, ...], geometry: list[int]
) -> list[Tensor | None]:
    """Differentiable gradients of the three inputs."""
    x, attention, weight = (
        tensor if want else tensor.detach() for tensor, want in zip(inputs, need, strict=False)
    )
    wanted = [tensor for tensor, want in zip((x, attention, weight), need, strict=False) if want]
    made = iter(
        torch.autograd.grad(mix(x, attention, weight, _unpack(geometry)), wanted, grad, create_graph=True)
    )
    return [next(made) if want else None for want in need[:3]]


def _pack(geometry: Geometry) -> list[int]:
    return [*geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups]


def _unpack(values: list[int]) -> Geometry:
    a, b, c, d, e, f, groups = values
    return Geometry((a, b), (c, d), (e, f), groups)
