"""Every strategy against a loop over images: values and gradients in float64, over generated shapes."""

from __future__ import annotations

import itertools
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dydist.config import ModelConfig
from dydist.errors import UserError
from dydist.models.strategies import NAMES, Geometry, Shape, dynamic_conv2d, rule
from helpers.convolutions import SAME, TYPICAL, Case, cases, gradients
from helpers.reference import loop


@pytest.mark.parametrize("strategy", NAMES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_equals_the_loop(strategy: str, case: Case) -> None:
    tensors = case.tensors()
    expected = loop(*tensors, case.geometry)  # type: ignore[arg-type]
    out = dynamic_conv2d(*tensors, *case.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
    torch.testing.assert_close(out, expected)
    for got, want in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(got, want)


WINOGRADS = [
    # (padding, size): tiles of 2x2 that end within the output or beyond it; rows fill a register tile or not
    ((1, 1), (8, 8)),
    ((0, 2), (9, 4)),
    ((2, 0), (5, 12)),
    ((1, 1), (1, 2)),
    ((1, 0), (13, 14)),
]


@pytest.mark.parametrize("kernels", [1, 4, 6])
@pytest.mark.parametrize(("padding", "size"), WINOGRADS)
@pytest.mark.parametrize(("images", "channels"), [(1, (3, 5)), (6, (20, 33)), (9, (140, 18))])
def test_winograd_equals_the_loop(
    images: int, channels: tuple[int, int], kernels: int, padding: tuple[int, int], size: tuple[int, int]
) -> None:
    """Odd sizes, channels that fill no vector or several mixed tiles, images that fill no group of four."""
    geometry = Geometry((1, 1), padding, (1, 1), 1)
    case = Case(images, kernels, *channels, (3, 3), size, geometry, False, 0)
    tensors = case.tensors()
    expected = loop(*tensors, geometry)  # type: ignore[arg-type]
    out = dynamic_conv2d(*tensors, *geometry, strategy="winograd")  # type: ignore[misc, arg-type]
    torch.testing.assert_close(out, expected)
    for got, want in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("strategy", NAMES)
def test_second_derivative(strategy: str) -> None:
    """Gradient penalties and the like work with every strategy."""
    small = Case(2, 2, 2, 2, (2, 2), (3, 3), Geometry((1, 1), (1, 1), (1, 1), 1), False, 1)
    x, attention, weight, _ = small.tensors()

    def apply(*tensors: Tensor) -> Tensor:
        return dynamic_conv2d(*tensors, None, *small.geometry, strategy=strategy)

    assert torch.autograd.gradcheck(apply, (x, attention, weight))
    assert torch.autograd.gradgradcheck(apply, (x, attention, weight))


@pytest.mark.parametrize("strategy", NAMES)
def test_autocast(strategy: str) -> None:
    tensors = TYPICAL.tensors(torch.float32)
    exact = loop(*TYPICAL.tensors(), TYPICAL.geometry).detach()  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = dynamic_conv2d(*tensors, *TYPICAL.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
    assert out.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits; an output sums 144 products with a mixed kernel of 4.
    torch.testing.assert_close(out.double(), exact, atol=0.03 * float(exact.std()) * 4, rtol=0.02)
    for gradient, tensor in zip(gradients(out.float(), tensors), tensors, strict=True):
        assert tensor is not None
        assert gradient.dtype == torch.float32
        assert gradient.shape == tensor.shape


@pytest.mark.parametrize("strategy", NAMES)
def test_channels_last(strategy: str) -> None:
    x, *rest = TYPICAL.tensors()
    assert x is not None
    expected = dynamic_conv2d(x, *rest, *TYPICAL.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
    last = x.detach().contiguous(memory_format=torch.channels_last)
    out = dynamic_conv2d(last, *rest, *TYPICAL.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("strategy", NAMES)
def test_an_empty_batch_gives_an_empty_output(strategy: str) -> None:
    x, attention, weight, bias = TYPICAL.tensors()
    assert x is not None
    assert attention is not None
    out = dynamic_conv2d(x[:0], attention[:0], weight, bias, *TYPICAL.geometry, strategy=strategy)  # type: ignore[arg-type]
    assert out.shape == (0, 24, 8, 8)


def test_a_configuration_may_name_every_strategy() -> None:
    assert get_args(get_type_hints(ModelConfig)["strategy"]) == NAMES


@pytest.mark.parametrize("strategy", NAMES)
def test_what_does_not_fit_is_refused(strategy: str) -> None:
    """Native kernels would read beyond the end."""
    x, attention, weight, _ = TYPICAL.tensors(torch.float32)
    assert x is not None
    assert attention is not None
    assert weight is not None
    for wrong in ((x[:, :8], attention, weight), (x, attention[:5], weight), (x, attention[:, :3], weight)):
        with pytest.raises(ValueError, match="do not fit one another"):
            dynamic_conv2d(*wrong, None, *SAME, strategy=strategy)
    with pytest.raises(TypeError, match="differ in dtype"):
        dynamic_conv2d(x.double(), attention, weight, None, *SAME, strategy=strategy)


def test_an_unknown_strategy_names_the_known_ones() -> None:
    tensors = TYPICAL.tensors()
    with pytest.raises(
        UserError, match=r"model.strategy: 'fastest'.*auto, grouped, mix, blocked, fused, winograd, taps"
    ):
        dynamic_conv2d(*tensors, *TYPICAL.geometry, strategy="fastest")  # type: ignore[misc, arg-type]


def test_the_rule_depends_on_the_shape_alone() -> None:
    """Same answer whatever the number of images: it must not change with the world size."""
    for channels, side in itertools.product((64, 128, 256, 512), (1, 2, 4, 8, 16, 32)):
        shapes = [Shape(n, 4, channels, channels, (3, 3), (side, side), SAME) for n in (1, 2, 16, 128)]
        assert len({rule(shape) for shape in shapes}) == 1
