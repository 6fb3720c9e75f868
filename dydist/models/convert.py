"""Converts the convolutions of any network to dynamic ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from dydist.errors import UserError
from dydist.models.dynamic_conv import DynamicConv2d, DynamicOptions
from dydist.models.initialization import kernels_from_

if TYPE_CHECKING:
    from typing_extensions import Unpack


def convert_to_dynamic(
    model: nn.Module,
    *,
    spread: float = 0.1,
    predicate: Callable[[str, nn.Conv2d], bool] | None = None,
    **options: Unpack[DynamicOptions],
) -> nn.Module:
    """Replace convolutions of `model` by dynamic ones, in place, and return it.

    The converted network computes the same function up to rounding: each layer's K kernels are the trained one plus
    perturbations that cancel while the attention is uniform, as it is initially. `spread` is their size, as a share of
    the trained weights' root mean square. `options`: kernels, reduction, strategy, attention, attention_norm,
    attention_min_hidden and channel_attention of `DynamicConv2d`.

    `predicate(name, convolution)` selects the convolutions to convert; by default all but the first, whose input is
    the image. Device, dtype, training mode and `requires_grad` are preserved; a shared module is replaced by one
    shared module. Draws from torch's default generator. Raises UserError if a selected convolution pads other than by
    a number of zeros, or if none is selected.
    """
    found = [(name, part) for name, part in model.named_modules() if type(part) is nn.Conv2d]
    first = found[0][1] if found else None
    chosen = {
        name: part for name, part in found if (predicate(name, part) if predicate else part is not first)
    }
    if not chosen:
        raise UserError(
            f"convert_to_dynamic: none of the {len(found)} convolutions of {type(model).__name__} was "
            "chosen; pass a network with at least two, or a predicate that accepts one"
        )
    for name, part in chosen.items():
        if part.padding_mode != "zeros" or isinstance(part.padding, str):
            raise UserError(
                f"convert_to_dynamic: {name or 'the model'} pads by {part.padding_mode}, {part.padding!r}; "
                "only padding by a number of zeros can be converted: leave it out with `predicate`"
            )
    layer = partial(DynamicConv2d, **options)
    made = {part: _dynamic(part, layer, spread) for part in chosen.values()}
    if model in made:
        return made[model]
    for parent in list(model.modules()):
        for name, child in list(
            parent._modules.items()
        ):  # named_children() skips the second name of a shared module.
            if isinstance(child, nn.Conv2d) and child in made:
                setattr(parent, name, made[child])
    return model


def _dynamic(source: nn.Conv2d, layer: Callable[..., DynamicConv2d], spread: float) -> DynamicConv2d:
    """A dynamic convolution that computes the same function as `source`."""
    target = layer(
        source.in_channels,
        source.out_channels,
        source.kernel_size,
        source.stride,
        source.padding,
        source.dilation,
        source.groups,
        source.bias is not None,
    ).to(device=source.weight.device, dtype=source.weight.dtype)
    kind = target.attention.kind
    with torch.no_grad():
        kernels_from_(target.weight, source.weight, kind=kind, spread=spread)
        if source.bias is not None and target.bias is not None:
            kernels_from_(target.bias, source.bias, kind=kind, spread=0.0)
    target.weight.requires_grad_(source.weight.requires_grad)
    if source.bias is not None and target.bias is not None:
        target.bias.requires_grad_(source.bias.requires_grad)
    return target.train(source.training)
