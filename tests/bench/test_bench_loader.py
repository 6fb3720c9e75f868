"""`dydist bench loader`, run for real on a small network and few images."""

from __future__ import annotations

import json
import os

import pytest
import torch

from dydist.bench.loader import LoaderCost, one_core
from dydist.cli.main import main


def test_loader_tells_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    """The loader is far ahead of torchvision's way and of the step, even here."""
    small = ["--width", "0.125", "--stem", "strided", "--batch-size", "32", "--images", "512"]
    assert main(["bench", "loader", *small, "--workers", "1", "--pairs", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {len(seconds) for seconds in told["seconds_an_image"].values()} == {3}
    assert told["ratios"]["loader / step"]["high"] > 1
    assert told["ratios"]["loader / torchvision"]["high"] > 1


def test_ratios_are_of_images_a_second() -> None:
    cost = LoaderCost(loader=[1e-5, 2e-5], torchvision=[1e-4, 4e-4], step=[1e-3, 4e-3])
    assert cost.over_step.low == pytest.approx(100)
    assert cost.over_torchvision.high == pytest.approx(20)


def test_one_core_is_given_back() -> None:
    before = torch.get_num_threads()
    allowed = os.sched_getaffinity(0)
    with one_core():
        assert torch.get_num_threads() == 1
        assert len(os.sched_getaffinity(0)) == 1
    assert torch.get_num_threads() == before
    assert os.sched_getaffinity(0) == allowed
