"""Imports torchvision on machines where its compiled operators cannot load.

The wheels on PyPI are built for CUDA. With a CPU build of torch, their library `_C` does not load, and `import
torchvision` fails with "operator torchvision::nms does not exist", although datasets, transforms and models need no
compiled operator. Declaring two schemas first is enough; calling the operators still raises.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from types import ModuleType

import torch

# As declared in torchvision/csrc/ops/nms.cpp and csrc/ops/quantized/cpu/qnms_kernel.cpp.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # A Library's definitions are removed when it is collected.


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision and return it, with or without its compiled operators.

    Call it instead of the first `import torchvision`; ordinary imports work afterwards. If the compiled operators
    load, nothing is declared. Raises ImportError if torchvision is missing.
    """
    declare_operators()
    with warnings.catch_warnings():
        # The CUDA wheel's image library also fails to load; dydist reads images with PIL.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        return importlib.import_module("torchvision")


@functools.cache
def declare_operators() -> None:
    """Make `import torchvision` work in other code. Does not import torchvision itself."""
    if "torchvision" not in sys.modules and not _operators_load():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)


def _operators_load() -> bool:
    """Try to load torchvision's library, found as torchvision does. Loading it again is free."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return True  # let the import itself raise
    details = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    for folder in package.submodule_search_locations:
        spec = importlib.machinery.FileFinder(folder, details).find_spec("_C")
        if spec is not None and spec.origin is not None:
            try:
                torch.ops.load_library(spec.origin)
            except (ImportError, OSError):
                continue
            return True
    return False
