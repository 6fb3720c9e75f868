"""Dynamic convolutions to try a strategy on: shapes, values and gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from dydist.models.strategies import Geometry


@dataclass(frozen=True)
class Case:
    images: int
    kernels: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    geometry: Geometry
    bias: bool
    seed: int

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
        """x, attention, weight, bias; all of them leaves that want a gradient."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

        per_group = self.in_channels // self.geometry.groups
        return [
            draw(self.images, self.in_channels, *self.size),
            draw(self.images, self.kernels),
            draw(self.kernels, self.out_channels, per_group, *self.kernel),
            draw(self.kernels, self.out_channels) if self.bias else None,
        ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = draw(pair(1, 3))
    geometry = Geometry(draw(pair(1, 3)), draw(pair(0, 2)), draw(pair(1, 2)), groups)
    least = [max(1, geometry.dilation[i] * (kernel[i] - 1) + 1 - 2 * geometry.padding[i]) for i in range(2)]
    size = (draw(st.integers(least[0], least[0] + 5)), draw(st.integers(least[1], least[1] + 5)))
    return Case(
        images=draw(st.integers(1, 5)),
        kernels=draw(st.integers(1, 5)),
        in_channels=groups * draw(st.integers(1, 4)),
        out_channels=groups * draw(st.integers(1, 4)),
        kernel=kernel,
        size=size,
        geometry=geometry,
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


def gradients(out: Tensor, tensors: list[Tensor | None]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return list(torch.autograd.grad((out * weights).sum(), [t for t in tensors if t is not None]))


SAME = Geometry((1, 1), (1, 1), (1, 1), 1)
TYPICAL = Case(6, 4, 16, 24, (3, 3), (8, 8), SAME, True, 0)
