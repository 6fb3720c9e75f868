"""Half precision on CPUs: without instructions for it, it is emulated, and many times slower than fp32."""

from __future__ import annotations

INSTRUCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "bf16": {"x86_64": ("avx512_bf16", "amx_bf16", "avx_ne_convert"), "aarch64": ("bf16",)},
    "fp16": {"x86_64": ("avx512_fp16", "amx_fp16"), "aarch64": ("asimdhp", "fphp")},
}
"""CPU flags, one of which a precision needs to be fast."""


def slow_precision(precision: str, device: str, cpu: str) -> str | None:
    """A warning if `precision` is slower than fp32 on this `device` type, else None.

    `cpu`: "<machine> <name> <flags…>" (`native.build.cpu`). None if the CPU's flags are unknown.
    """
    machine, *words = cpu.split()
    wanted = INSTRUCTIONS.get(precision, {}).get(machine)
    told = "avx" in cpu or "sse2" in words or "asimd" in words
    if device != "cpu" or wanted is None or not told or not set(wanted).isdisjoint(words):
        return None
    return (
        f"train.precision: {precision} is emulated on this CPU, which has none of {', '.join(wanted)}: expect it to "
        "be many times slower than fp32 (40 times was measured with AVX2 alone); use train.precision=fp32"
    )
