"""torchvision on a machine where its compiled operators cannot load.

The wheels on PyPI are built for CUDA. Beside a CPU build of torch their library `_C` does not load, and then
`import torchvision` ends with "operator torchvision::nms does not exist", although datasets, transforms and
models need no compiled operator. Declaring the two schemas first is enough; the operators themselves still
refuse to run, and torchvision says so when one is called.
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

# As torchvision/csrc/ops/nms.cpp and csrc/ops/quantized/cpu/qnms_kernel.cpp declare them.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # A Library takes its definitions with it when it is collected.


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision and return it, with or without its compiled operators.

    Call it in place of the first `import torchvision`; plain imports from torchvision work afterwards.
    Where the compiled operators load, nothing is declared. Raises ImportError where torchvision is missing.
    """
    if "torchvision" not in sys.modules and not _operators_load():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)
    with warnings.catch_warnings():
        # The image library of the CUDA wheel fails to load in the same way; PIL reads our images.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        return importlib.import_module("torchvision")


def _operators_load() -> bool:
    """Try torchvision's own library, found the way torchvision finds it. Loading it a second time is free."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return True  # Let the import itself say what is wrong.
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
