"""C++ kernels of `fused`, `winograd` and `taps`: built on first use, cached, loaded with ctypes.

- `build`: finds a compiler, builds once per CPU, loads
- `kernels.cpp` and its headers: the kernels
- `call`: calls them from Python
- `layout`: splits kernels into taps, and joins them
"""

from dydist.models.strategies.native.build import cache_folder, identity, library, reason

__all__ = ["cache_folder", "identity", "library", "reason"]
