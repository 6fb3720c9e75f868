"""Compiles Triton's kernels for an A100 (sm_80) and an H100 (sm_90) as they would be launched: a line for each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dydist.models.strategies import triton_kernels as kernels
from dydist.models.strategies.triton import MOST_KERNELS

TENSORS = {"x", "attention", "weight", "out", "grad", "grad_x", "grad_weight", "grad_attention"}
SUMS = {"grad_weight", "grad_attention"}
ONES = {"stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w"}
"""Numbers that are 1 are constants of a launch's kernel, and multiples of 16 are known to be such."""
SHARED_BYTES = 101_376
"""Shared memory of a block on the smallest cards from sm_80 on (sm_86, sm_89)."""
TILES = {
    kernels._forward_kernel: {"tile_o": kernels.CHANNELS, "tile_r": kernels.TAPS},
    kernels._input_gradient_kernel: {"tile_c": kernels.CHANNELS, "tile_o": kernels.CHANNELS},
    kernels._kernel_gradient_kernel: {"tile_o": kernels.CHANNELS, "tile_r": kernels.TAPS},
}


def compile_kernel(
    function: triton.JITFunction, dtype: str, capability: int, options: dict[str, object]
) -> None:
    """`options`: as `for_kernels` has them."""
    launch = {name: options[name] for name in ("num_warps", "num_stages")}
    constants = {name: value for name, value in options.items() if name not in launch}
    constants |= {"kernel_h": 3, "kernel_w": 3, **TILES[function], "tile_p": kernels.PIXELS}
    names = function.arg_names
    constants |= {name: 1 for name in names if name in ONES}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in TENSORS:
            return "*fp32" if name in SUMS else f"*{dtype}"
        return "i32"

    signature = {name: kind(name) for name in names}
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if signature[name] != "constexpr"
        },
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    assert made.asm["cubin"]
    shared = made.metadata.shared
    what = f"{function.__name__} {dtype} {options['precision']} K={options['kernels']} sm_{capability}"
    print(f"{what}: {shared} bytes of shared memory")
    assert shared <= SHARED_BYTES, what


if __name__ == "__main__":
    with TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(Path(folder))
        for function in TILES:
            for capability in (80, 90):
                compile_kernel(function, "fp32", capability, kernels.for_kernels(4, tf32=False))
                compile_kernel(function, "bf16", capability, kernels.for_kernels(4, tf32=True))
            compile_kernel(function, "fp32", 90, kernels.for_kernels(8, tf32=True))
            compile_kernel(function, "bf16", 80, kernels.for_kernels(MOST_KERNELS, tf32=True))
