"""The C++ kernels of `fused`: built on first use, kept in a cache, loaded with ctypes.

- `build`: find a compiler, build once for this CPU, load
- `fused.cpp`: the kernels
"""

from dydist.models.strategies.native.build import cache_folder, library, reason

__all__ = ["cache_folder", "library", "reason"]
