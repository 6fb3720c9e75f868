"""C++ for `fused`, `winograd` and `taps`: built on first use, kept in a cache, loaded with ctypes.

- `build`: find a compiler, build once for this CPU, load
- `kernels.cpp` and the headers that it lists: the kernels
- `call`: how Python calls them
- `layout`: the taps of kernels apart, and back together
"""

from dydist.models.strategies.native.build import cache_folder, identity, library, reason

__all__ = ["cache_folder", "identity", "library", "reason"]
