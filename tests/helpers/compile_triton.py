"""Compiles Triton's kernels for an A100 (sm_80) and an H100 (sm_90) as they would be launched: a line for each."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dydist.models.strategies import stacked_kernels

KERNELS = (stacked_kernels._scale_kernel, stacked_kernels._gather_kernel)
SHARED_BYTES = 49_152
"""Shared memory that every card gives a block without being asked."""


def compile_kernel(
    function: triton.JITFunction, dtype: str, capability: int, *, kernels: int, grouped: bool
) -> None:
    """Multiples of 16 are known to be such, as in a launch on a network's usual sizes."""
    tile = stacked_kernels.TILE
    constants = {"kernels": kernels, "grouped": grouped, "tile_c": tile, "tile_p": tile}
    names = function.arg_names

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in ("channels", "pixels", "group_channels"):
            return "i32"
        return "*fp32" if name == "grad_attention" else f"*{dtype}"

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
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    shared = made.metadata.shared
    what = f"{function.__name__} {dtype} K={kernels} grouped={grouped} sm_{capability}"
    print(f"{what}: {shared} bytes of shared memory")
    assert shared <= SHARED_BYTES, what


if __name__ == "__main__":
    with TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(Path(folder))
        for function in KERNELS:
            for capability in map(int, sys.argv[1:]):
                for dtype in ("fp32", "bf16", "fp16"):
                    compile_kernel(function, dtype, capability, kernels=4, grouped=False)
            compile_kernel(function, "fp32", 80, kernels=32, grouped=True)
