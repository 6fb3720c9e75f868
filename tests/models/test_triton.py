"""Triton's kernels without a GPU: their values under the interpreter, and machine code from the real compiler."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models.test_strategies import SAME, Case, gradients
from support import REPOSITORY

from dydist.models.choice import lost_speed
from dydist.models.strategies import Geometry, dynamic_conv2d
from dydist.models.strategies.triton import available

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton (Linux on x86-64)"
)
HERE = Path(__file__).parent


@needs_triton
@pytest.mark.slow
def test_kernels_equal_the_loop_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "interpreted_triton.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    made = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "5 passed" in made.stdout


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """Triton's compiler and ptxas make machine code for an A100 and an H100; the interpreter alone checks no types."""
    made = subprocess.run(
        [sys.executable, HERE / "compile_triton.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    lines = made.stdout.splitlines()
    assert len(lines) == 3 * 3 * 2, made.stdout
    print(made.stdout)


CASES = [
    Case(2, 3, 70, 40, (3, 3), (9, 10), SAME, False, 0),
    Case(3, 4, 34, 66, (3, 3), (7, 5), Geometry((2, 1), (1, 2), (1, 2), 2), False, 1),
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_kernels_on_a_gpu(case: Case) -> None:
    assert available("cuda")
    tensors = [None if t is None else t.detach().float().cuda().requires_grad_() for t in case.tensors()]
    outs = []
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for strategy in ("triton", "grouped"):
            out = dynamic_conv2d(*tensors, *case.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
            outs.append([out, *gradients(out, tensors)])
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    for got, want in zip(*outs, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * float(want.abs().max()))


def test_who_asks_for_it_and_cannot_have_it_is_told() -> None:
    chosen = {"layer": "triton", "other": "blocked"}
    assert not available("cpu")
    assert "1 dynamic convolution is made for Triton" in (lost_speed(chosen, "cpu") or "")
    native = lost_speed({"layer": "fused", "other": "winograd"}, "cuda") or ""
    assert "2 dynamic convolutions are made for C++ kernels, which run on CPUs alone" in native
