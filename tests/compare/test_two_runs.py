"""Comparing the tensors of two runs."""

from __future__ import annotations

import torch

from dydist.compare.two import first_difference


def test_the_first_tensor_that_differs_and_the_largest_difference() -> None:
    ours = {"a": torch.zeros(2), "b": torch.tensor([1.0, 2.0]), "c": torch.tensor([1.0])}
    theirs = {"a": torch.zeros(2), "b": torch.tensor([1.0, 2.5]), "c": torch.tensor([4.0])}
    assert first_difference(ours, ours) == (None, 0.0)
    assert first_difference(ours, theirs) == ("b", 3.0)


def test_tensors_of_other_shapes_or_names_have_no_largest_difference() -> None:
    ours = {"a": torch.zeros(2), "b": torch.zeros(2)}
    assert first_difference(ours, {"a": torch.ones(2), "b": torch.zeros(3)}) == ("a", None)
    assert first_difference(ours, {"a": torch.zeros(2)}) == ("b", None)
