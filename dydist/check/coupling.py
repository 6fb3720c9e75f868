"""Finds a module that mixes the images of a batch in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dydist.check.recorder import tensors_in

IMAGES = 4
TOLERANCE = 1e-3
"""Largest difference that rounding explains, relative to the largest value: kernels depend on the size of the batch."""


@torch.no_grad()
def coupled_module(network: nn.Module, image_shape: Sequence[int]) -> str | None:
    """The first module, with its class, whose output for an image depends on the others of its batch; None: none does.

    Runs `network` in evaluation on four random images of `image_shape` [C, H, W], and on the first of them alone.
    """
    images = torch.randn(IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        together, alone = _outputs(network, images), _outputs(network, images[:1])
    finally:
        for part, training in modes.items():
            part.training = training
    classes = {name: type(part).__name__ for name, part in network.named_modules()}
    for (name, many), (other, one) in zip(together, alone, strict=False):
        if (
            name != other
            or many.ndim == 0
            or many.shape[1:] != one.shape[1:]
            or len(one) * IMAGES != len(many)
        ):
            continue  # not one row, or a fixed number of them, an image
        many, one = many[: len(one)].double(), one.double()
        if float((many - one).abs().max()) > TOLERANCE * max(float(one.abs().max()), 1e-6):
            return f"module {name} ({classes[name]})" if name else f"the network ({classes[name]})"
    return None


def _outputs(network: nn.Module, images: Tensor) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            found.extend((name, tensor.clone()) for tensor in tensors_in(output) if tensor.numel())

        return hook

    hooks = [part.register_forward_hook(hook_of(name)) for name, part in network.named_modules()]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
