"""Compiles each of Triton's kernels for an A100 (sm_80) and an H100 (sm_90), in float32 and bfloat16: a line each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dydist.models.strategies import triton_kernels as kernels

TENSORS = {"x", "attention", "weight", "out", "grad", "grad_x", "grad_weight", "grad_attention"}
SUMS = {"grad_weight", "grad_attention"}
SIZES = {"kernels": 4, "kernels_2": 4, "kernel_h": 3, "kernel_w": 3, "precision": "tf32"}


def compile_kernel(function: triton.JITFunction, dtype: str, capability: int, **tiles: int) -> None:
    constants = {**SIZES, **tiles}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in TENSORS:
            return "*fp32" if name in SUMS else f"*{dtype}"
        return "i32"

    names = function.arg_names
    source = ASTSource(
        function,
        {name: kind(name) for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    print(f"{function.__name__} {dtype} sm_{capability}: {made.metadata.shared} bytes of shared memory")


if __name__ == "__main__":
    pixels = kernels.PIXELS
    with TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(Path(folder))
        for dtype in ("fp32", "bf16"):
            for capability in (80, 90):
                compile_kernel(
                    kernels._forward_kernel, dtype, capability,
                    tile_o=kernels.CHANNELS, tile_r=kernels.TAPS, tile_p=pixels,
                )  # fmt: skip
                compile_kernel(
                    kernels._input_gradient_kernel, dtype, capability,
                    tile_c=kernels.CHANNELS, tile_o=kernels.CHANNELS, tile_p=pixels,
                )  # fmt: skip
                compile_kernel(
                    kernels._kernel_gradient_kernel, dtype, capability,
                    tile_o=kernels.CHANNELS, tile_r=kernels.TAPS, tile_p=pixels,
                )  # fmt: skip
