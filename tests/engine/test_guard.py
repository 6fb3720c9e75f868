"""The guard's checksum and its verdict, with processes that are entries of a list."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dydist.engine.guard import check_agreement, check_finite, digest
from dydist.errors import DivergedError


class Others:
    """A world of which this process is rank 0: the others' states are given."""

    def __init__(self, states: list[tuple[int, dict[str, torch.Tensor]]]) -> None:
        self.size = len(states) + 1
        self.rows = [[step, *(int(digest(tensor)) for tensor in state.values())] for step, state in states]

    def gather(self, mine: list[int]) -> list[list[int]]:
        return [mine, *self.rows]


@given(st.integers(1, 5000), st.integers(0, 10**9), st.integers(0, 31))
def test_every_flipped_bit_changes_the_checksum(size: int, place: int, bit: int) -> None:
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(size))
    before = int(digest(tensor))
    words = tensor.view(torch.int32)
    words[place % size] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    assert int(digest(tensor)) != before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_other_types_and_shapes_have_checksums(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 5, 7).to(dtype)
    assert int(digest(tensor)) == int(digest(tensor.clone()))
    changed = tensor.clone()
    changed[2, 4, 6] = 0
    assert int(digest(tensor)) != int(digest(changed))
    assert int(digest(torch.tensor(3))) != int(digest(torch.tensor(4)))


def state(**changes: float) -> dict[str, torch.Tensor]:
    values = {name: torch.full((4,), float(number)) for number, name in enumerate("abc")}
    for name, value in changes.items():
        values[name][1] = value
    return values


def test_equal_processes_pass() -> None:
    check_agreement(state(), 7, Others([(7, state()), (7, state())]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([(7, state()), (7, state(b=9))], r"rank 2 of 3 differs, first in tensor b\."),
        ([(7, state(b=9)), (7, state(b=9))], r"rank 0 of 3 differs, first in tensor b\."),
        ([(7, state()), (8, state(a=9))], r"rank 2 of 3 differs, first in the step"),
        (
            [(7, state(c=1)), (7, state()), (7, state(a=1))],
            r"ranks 1, 3 and the other half of 4 hold different values, first in tensor c\.",
        ),
    ],
)
def test_who_differs_from_the_majority_and_where_is_named(others: Any, message: str) -> None:
    with pytest.raises(DivergedError, match=message):
        check_agreement(state(), 7, Others(others))  # type: ignore[arg-type]


def test_a_weight_that_is_not_finite_is_named() -> None:
    check_finite(state(), 3)
    with pytest.raises(DivergedError, match="step 3: b is no longer finite"):
        check_finite(state(b=float("nan"), c=float("inf")), 3)
