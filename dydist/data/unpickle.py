"""Reads pickled dicts of arrays without executing code from the file.

A pickle is a program: loading an untrusted one with `pickle.load` can execute anything. CIFAR's files only name four
functions of numpy, and functions that make bytes. Here each name becomes an inert record, and so does each call. The
arrays are built from the records afterwards, once dtype, shape and length are checked. An allow-list that returned
numpy's own functions would not be safe: a file could then give a dtype a state that numpy trusts.
"""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_NUMBERS = frozenset("u1 i1 u2 i2 u4 i4 u8 i8 f4 f8".split())
_ALLOWED = frozenset(
    "numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct "
    "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer "
    "_codecs.encode builtins.bytes __builtin__.bytes".split()  # how Python 3 writes bytes in the old protocols
)


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read the dict in a pickle of Python 2 or 3, with text keys.

    Values are plain containers, numbers, bytes or text, and read-only arrays of the usual numeric dtypes.

    Raises:
        pickle.UnpicklingError: the file is not a pickle, is truncated, contains something else than a dict, or
            names anything beyond plain containers and arrays. Nothing of it has been executed.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            _check_size(file)
            file.seek(0)
            content = _Unpickler(file, encoding="bytes").load()  # keeps Python 2's str, the images, as bytes
            if not isinstance(content, dict):
                raise pickle.UnpicklingError(f"holds a {type(content).__name__}, not a dict")
            return {_text(key): _finished(value) for key, value in content.items()}
        except (pickle.UnpicklingError, OSError):
            raise
        except Exception as error:  # a damaged pickle may raise nearly anything: IndexError, KeyError …
            raise pickle.UnpicklingError(
                f"empty, cut short or broken ({type(error).__name__}: {error})"
            ) from None


def _check_size(file: BinaryIO) -> None:
    """Check, without building objects, that no size in the file exceeds the file's length.

    Python's loader allocates its memo for the largest index in the file, so a dozen bytes, or one flipped bit, could
    use all memory of a node. Raises ValueError if the file is damaged or truncated.
    """
    for code, argument, position in pickletools.genops(file):
        if code.name in ("PUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
            raise pickle.UnpicklingError(f"numbers a part {argument}, at byte {position} of the file")


class _Record:
    """A name in the file, or a call of it: the arguments and the state that the file gives. Does nothing."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments, self.state = name, arguments, ()

    def __call__(self, *arguments: Any) -> _Record:
        return _Record(f"{self.name}()", arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Record:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which a data file has no use for")
        return _Record(name)


def _finished(value: Any) -> Any:
    """Replace the records of a value, and those of bytes in a list, as the published files hold them."""
    if isinstance(value, list):
        return [_finished(item) if isinstance(item, _Record) else item for item in value]
    if not isinstance(value, _Record):
        return value
    match value.name, value.arguments, value.state:
        case "encode()", (str(text), "latin1" | b"latin1"), ():
            return text.encode("latin1")
        case "bytes()", (), ():
            return b""
        case "_reconstruct()", _, (_, shape, _Record() as dtype, fortran, data):
            return _array(shape, dtype, bool(fortran), _finished(data))
        case "_frombuffer()", (data, _Record() as dtype, shape, order), ():
            return _array(shape, dtype, order == "F", _finished(data))
    raise pickle.UnpicklingError(f"has a use of {value.name} that no array of numbers needs")


def _array(shape: Any, dtype: _Record, fortran: bool, data: Any) -> np.ndarray:
    """The read-only array of a record; `dtype` records numpy.dtype(name, …) and a state with the byte order."""
    name = _text(dtype.arguments[0]).lstrip("<>|=") if dtype.name == "dtype()" and dtype.arguments else ""
    order = _text(dtype.state[1]) if dtype.state else "|"
    if name not in _NUMBERS or order not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError(f"holds an array of dtype {name[:20]!r}, not of numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("holds an array with an impossible shape")
    kind = np.dtype(order + name)
    if not isinstance(data, bytes | bytearray) or len(data) != np.prod(shape, dtype=object) * kind.itemsize:
        size = len(data) if isinstance(data, bytes | bytearray) else "no"
        raise pickle.UnpicklingError(f"holds {size} bytes for an array of {kind} of shape {shape}")
    array = np.frombuffer(data, dtype=kind).reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array


def _text(value: Any) -> str:
    """Decode a key or a name that Python 2 wrote as bytes."""
    value = _finished(value)
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"has a {type(value).__name__} where a name belongs")
