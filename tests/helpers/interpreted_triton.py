"""Values of Triton's kernels under its interpreter. Run by test_triton.py, in a process of its own with
TRITON_INTERPRET=1: triton's own functions are the interpreter's only where that is set before anything imports them.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings

from dydist.models.strategies import Geometry, dynamic_conv2d
from dydist.models.strategies.stacked import _triton_runs
from helpers.convolutions import SAME, Case, cases, gradients
from helpers.reference import loop


def check(case: Case, dtype: torch.dtype = torch.float32, tolerance: float = 2e-5) -> None:
    """Values and gradients against the loop in float64; errors count against the greatest value."""
    tensors = [None if t is None else t.detach().to(dtype).requires_grad_() for t in case.tensors()]
    precise = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    expected = loop(*precise, case.geometry)  # type: ignore[arg-type]
    assert tensors[0] is not None
    assert _triton_runs(tensors[0])
    out = dynamic_conv2d(*tensors, *case.geometry, strategy="stacked")  # type: ignore[misc, arg-type]
    for got, want in zip(
        [out, *gradients(out, tensors)], [expected, *gradients(expected, precise)], strict=True
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.double(), want, rtol=0, atol=tolerance * float(want.detach().abs().max()) + 1e-12
        )


@settings(max_examples=int(os.environ["DYDIST_TEST_EXAMPLES"]), deadline=None, derandomize=True)
@given(case=cases())
def test_kernels_equal_the_loop(case: Case) -> None:
    check(case)


LARGER = [
    # more channels and pixels than a tile has, and none a multiple of it
    Case(2, 3, 70, 40, (3, 3), (9, 10), SAME, True, 0),
    Case(3, 4, 34, 66, (3, 3), (7, 5), Geometry((2, 1), (1, 2), (1, 2), 2), False, 1),
    # tiles that are full
    Case(2, 5, 64, 3, (1, 1), (8, 8), SAME, False, 2),
]


@pytest.mark.parametrize("case", LARGER)
def test_kernels_with_several_tiles(case: Case) -> None:
    check(case)


def test_half_precision() -> None:
    check(Case(3, 4, 16, 24, (3, 3), (8, 8), SAME, False, 0), torch.float16, 2e-3)
