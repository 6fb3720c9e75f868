"""Reads pickled dicts of arrays without executing code from the file.

A pickle is a program: loading an untrusted one with `pickle.load` can execute anything. The published CIFAR files
only need three numpy names and plain containers. Here these names resolve to inert objects that record their
arguments; the array is built from the record afterwards, once its dtype and length are checked. The file never calls
a function of numpy or of any other package.
"""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

_DTYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"})
_ARRAY_MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray"})
_BUFFER_MODULES = frozenset({"numpy.core.numeric", "numpy._core.numeric"})


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read the dict in a pickle of Python 2 or 3, with text keys.

    Values are plain containers, numbers, bytes or text, and read-only arrays of the usual numeric dtypes.

    Raises:
        pickle.UnpicklingError: the file is not a pickle, is cut short, holds something else than a dict, or
            asks for anything beyond plain containers and arrays. Nothing of it has been executed.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            _check_size(file)
            file.seek(0)
            content = _Unpickler(file).load()
        except (pickle.UnpicklingError, OSError):
            raise
        except Exception as error:  # a damaged pickle may raise nearly anything: IndexError, KeyError …
            raise pickle.UnpicklingError(
                f"empty, cut short or broken ({type(error).__name__}: {error})"
            ) from None
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"holds a {type(content).__name__}, not a dict")
    return {_text(key): _finished(value) for key, value in content.items()}


def _check_size(file: BinaryIO) -> None:
    """Check, without building objects, that no size in the file exceeds the file's length.

    Python's loader allocates its memo for the largest index in the file, so a dozen bytes, or one flipped bit, could
    use all memory of a node. Raises ValueError if the file is damaged or truncated.
    """
    for code, argument, position in pickletools.genops(file):
        if code.name in ("PUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
            raise pickle.UnpicklingError(f"numbers a part {argument}, at byte {position} of the file")


class _Unpickler(pickle.Unpickler):
    """Resolves only the names that arrays need, each to a new object, so that a file cannot change a shared one."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")  # keep Python 2's str, which contains the images, as bytes

    def find_class(self, module: str, name: str) -> Any:
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _Callable(_Array)
        if module in _BUFFER_MODULES and name == "_frombuffer":
            return _Callable(_array_from_buffer)
        if module == "numpy" and name == "dtype":
            return _Callable(_Dtype)
        if module == "numpy" and name == "ndarray":
            return _Callable(_refuse_call)  # only used as the first argument of _reconstruct
        if module == "_codecs" and name == "encode":  # how Python 3 writes bytes in the old protocols
            return _Callable(_encode)
        if module in ("__builtin__", "builtins") and name == "bytes":  # and how it writes empty ones
            return _Callable(_no_bytes)
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which a data file has no use for")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("refers to objects outside the file")


class _Callable:
    """Stands in for a function that the file names; has no attribute that a file could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("tries to change a function")


class _Dtype:
    """Record of numpy.dtype(name, …): the name, and the byte order from its state."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = _text(name).lstrip("<>|="), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def finish(self) -> np.dtype[Any]:
        if self.name not in _DTYPES or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"holds an array of dtype {self.name[:20]!r}, not of numbers")
        return np.dtype(self.order + self.name)


class _Array:
    """Record of an array: shape, dtype, memory order and bytes."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, *_: Any) -> None:  # numpy._reconstruct(ndarray, (0,), b"b"): an empty shell
        self.shape: Any = None
        self.dtype: Any = None
        self.fortran: Any = False
        self.data: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def finish(self) -> np.ndarray:
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.data, bytes | bytearray):
            raise pickle.UnpicklingError("holds an array without plain bytes")
        if not isinstance(self.shape, tuple) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise pickle.UnpicklingError("holds an array with an impossible shape")
        dtype = self.dtype.finish()
        if len(self.data) != np.prod(self.shape, dtype=object) * dtype.itemsize:
            raise pickle.UnpicklingError(
                f"holds {len(self.data)} bytes for an array of {dtype} of shape {self.shape}"
            )
        array = np.frombuffer(self.data, dtype=dtype).reshape(self.shape, order="F" if self.fortran else "C")
        array.flags.writeable = False
        return array


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("encodes something that is not bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _refuse_call(*_: Any) -> NoReturn:
    raise pickle.UnpicklingError("calls numpy.ndarray itself")


def _finished(value: Any) -> Any:
    """Build the arrays from their records, at the top level of the dict, where the published files have them."""
    return value.finish() if isinstance(value, _Array) else value


def _text(value: Any) -> str:
    """Decode a key or a name that Python 2 wrote as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"has a {type(value).__name__} where a name belongs")
