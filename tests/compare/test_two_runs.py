"""Comparing the tensors of two runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dydist.compare.two import compare_runs, first_difference


def test_the_first_tensor_that_differs_and_the_largest_difference() -> None:
    ours = {"a": torch.zeros(2), "b": torch.tensor([1.0, 2.0]), "c": torch.tensor([1.0])}
    theirs = {"a": torch.zeros(2), "b": torch.tensor([1.0, 2.5]), "c": torch.tensor([4.0])}
    assert first_difference(ours, ours) == (None, 0.0)
    assert first_difference(ours, theirs) == ("b", 3.0)


def test_tensors_of_other_shapes_or_names_have_no_largest_difference() -> None:
    ours = {"a": torch.zeros(2), "b": torch.zeros(2)}
    assert first_difference(ours, {"a": torch.ones(2), "b": torch.zeros(3)}) == ("a", None)
    assert first_difference(ours, {"a": torch.zeros(2)}) == ("b", None)


def test_the_smallest_difference_of_a_loss_is_one(tmp_path: Path) -> None:
    for name, last in (("a", 1.0), ("b", 1.0 + 2**-52)):
        (tmp_path / name).mkdir()
        lines = ({"kind": "step", "step": step, "loss": loss} for step, loss in ((1, 2.0), (2, last)))
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = compare_runs(tmp_path / "a", tmp_path / "b")
    assert result.first_difference is not None
    assert result.first_difference.step == 2
    assert not result.equal
