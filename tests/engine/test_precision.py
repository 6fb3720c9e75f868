"""Half precision where the CPU has no instructions for it."""

from __future__ import annotations

import pytest

from dydist.engine.precision import slow_precision


@pytest.mark.parametrize(
    ("precision", "device", "cpu", "slow"),
    [
        ("bf16", "cpu", "x86_64 AMD EPYC 7763 fpu sse2 avx avx2", True),
        ("bf16", "cpu", "x86_64 AMD EPYC 9R14 fpu sse2 avx2 avx512f avx512_bf16", False),
        ("bf16", "cpu", "x86_64 Xeon fpu sse2 avx2 amx_bf16 amx_tile", False),
        ("bf16", "cuda", "x86_64 AMD EPYC 7763 fpu sse2 avx avx2", False),
        ("fp16", "cpu", "x86_64 AMD EPYC 9R14 fpu sse2 avx2 avx512_bf16", True),
        ("fp32", "cpu", "x86_64 AMD EPYC 7763 fpu sse2 avx avx2", False),
        ("bf16", "cpu", "aarch64 Neoverse-N1 fp asimd asimdhp", True),
        ("bf16", "cpu", "aarch64 Neoverse-V2 fp asimd asimdhp bf16", False),
        ("bf16", "cpu", "arm64 arm", False),  # tells no flags
        ("bf16", "cpu", "x86_64 ", False),
    ],
)
def test_emulated_precision_is_told(precision: str, device: str, cpu: str, slow: bool) -> None:
    said = slow_precision(precision, device, cpu)
    assert (said is not None) == slow
    if said is not None:
        assert said.startswith(f"train.precision: {precision} is emulated on this CPU")
