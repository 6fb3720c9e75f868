"""Page-locked host tensors for asynchronous copies to a GPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pinned(values: np.ndarray, device: torch.device) -> Tensor:
    """A host tensor of `values`; page-locked if `device` is a GPU, so that copies are asynchronous."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor
