"""Calls the C++ kernels: supported dtypes, and conversion of arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from dydist.models.strategies.native.build import library

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


def supports_dtype(dtype: torch.dtype) -> bool:
    """Whether there are kernels for this dtype."""
    return dtype in _SUFFIXES


def call(name: str, dtype: torch.dtype, *arguments: Tensor | Sequence[int] | int) -> None:
    """Call the kernel `name` for `dtype` on the CPU, with torch's thread count as the last argument.

    Contiguous tensors are passed as pointers, lists as arrays of `long`, integers as `long`.
    """
    function = getattr(library(), f"{name}_{_SUFFIXES[dtype]}")
    function(*map(_pass, arguments), ctypes.c_int(torch.get_num_threads()))


def _pass(argument: Tensor | Sequence[int] | int) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return (ctypes.c_long * len(argument))(*argument)
