"""Triton's kernels without a GPU: their values under the interpreter, and machine code from the real compiler."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

from dydist.models.choice import slow_kernels
from dydist.models.strategies.stacked import _tried, triton_reason
from helpers.support import REPOSITORY

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton (Linux on x86-64)"
)
HELPERS = REPOSITORY / "tests" / "helpers"


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("examples", [2, pytest.param(20, marks=pytest.mark.long)])
def test_kernels_equal_the_loop_under_the_interpreter(examples: int) -> None:
    tests = str(HELPERS / "interpreted_triton.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "DYDIST_TEST_EXAMPLES": str(examples)}
    made = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "5 passed" in made.stdout


@needs_triton
@pytest.mark.long
@pytest.mark.parametrize("cards", [("80",), ("80", "90")], ids=["A100", "both"])
def test_kernels_compile_for_gpus_that_are_not_here(cards: tuple[str, ...]) -> None:
    """Triton's compiler and ptxas make machine code for an A100 and an H100; the interpreter alone checks no types."""
    made = subprocess.run(
        [sys.executable, HELPERS / "compile_triton.py", *cards],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    lines = made.stdout.splitlines()
    assert len(lines) == 2 * (len(cards) * 3 + 1), made.stdout
    print(made.stdout)


def test_who_asks_for_kernels_and_cannot_have_them_is_told() -> None:
    native = slow_kernels({"layer": "fused", "other": "winograd"}, "cuda") or ""
    assert "2 dynamic convolutions are made for C++ kernels, which run on CPUs alone" in native
    on_cpu = slow_kernels({"layer": "stacked", "other": "mix"}, "cpu") or ""
    assert "1 dynamic convolution is made for GPUs, and slow on a CPU" in on_cpu


def test_kernels_that_do_not_start_are_told_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU and no C compiler."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    _tried.cache_clear()
    why = triton_reason("cuda") or ""  # there is no GPU here, or it takes a moment: either way an answer
    if torch.cuda.is_available():
        assert why == ""
    else:
        assert re.match(r"\w+: .", why)
        assert f"1 dynamic convolution is without Triton's kernels ({why})" in (
            slow_kernels({"layer": "stacked"}, "cuda") or ""
        )
    _tried.cache_clear()
