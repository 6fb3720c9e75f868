"""Checks that a checkpoint's files can be loaded, made while their hashes are computed.

A matching hash proves that the bytes are the ones that were written, not that they can be loaded. `load` needs
safetensors headers that cover their data, each tensor once, and a state of the right step. This module does not
import torch, to keep the command line fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dydist.checkpoint._format import STATE, TENSOR_FILE, is_integer, is_number, read_json

HEADER_LIMIT = 100_000_000
"""Maximum bytes of a header; the safetensors package has the same limit."""
STATE_LIMIT = 64 << 20
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes per element of each dtype that a checkpoint may contain, by its name in safetensors."""

Seen = dict[tuple[str, str], str]
"""(kind, tensor name) → file, for the files of a checkpoint read so far."""


class Content:
    """Collects one file's chunks, then checks them. `size`: the file's bytes by the manifest."""

    def __init__(self, name: str, size: int, step: int) -> None:
        self._name = name
        self._size = size
        self._step = step
        self._head = bytearray()
        self._is_state = name == STATE
        self._kind = match[1] if (match := TENSOR_FILE.fullmatch(name)) else None
        self._wanted = min(size, STATE_LIMIT) if self._is_state else 8 if self._kind else 0

    def feed(self, chunk: bytes) -> None:
        """Keep the part of a chunk that `check` needs: the state, or the header of a tensor file."""
        if len(self._head) < self._wanted:
            self._head += chunk[
                : max(self._wanted - len(self._head), 0) + (HEADER_LIMIT if self._kind else 0)
            ]
            if self._kind and self._wanted == 8 and len(self._head) >= 8:
                self._wanted = 8 + min(int.from_bytes(self._head[:8], "little"), HEADER_LIMIT)
            del self._head[self._wanted :]

    def check(self, seen: Seen) -> None:
        """Raise ValueError if the file cannot be loaded, or contains a tensor of another file in `seen`."""
        if self._is_state:
            read_state(bytes(self._head), self._step)
        if self._kind:
            for tensor in _tensors(bytes(self._head), self._size):
                other = seen.setdefault((self._kind, tensor), self._name)
                if other != self._name:
                    raise ValueError(f"it holds {tensor!r:.80}, as {other} does")


def _tensors(head: bytes, size: int) -> list[str]:
    """The tensor names of a safetensors file that begins with `head`. Raises ValueError if it is not one."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > HEADER_LIMIT or 8 + length > size:
        raise ValueError("it is no safetensors file")
    header = read_json(head[8:])
    header.pop("__metadata__", None)
    spans = []
    for name, facts in header.items():
        name.encode()
        start, end = _span(facts)
        spans.append((start, end))
    covered = 0
    for start, end in sorted(spans):
        if start != covered:
            raise ValueError("its header does not cover its data")
        covered = end
    if 8 + length + covered != size:
        raise ValueError("its header does not cover its data")
    return list(header)


def _span(facts: Any) -> tuple[int, int]:
    """The first and last offset of a tensor's bytes. Raises ValueError if dtype, shape and offsets do not agree."""
    if not isinstance(facts, Mapping) or set(facts) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("its header describes a tensor in another way than safetensors does")
    dtype, shape, span = facts["dtype"], facts["shape"], facts["data_offsets"]
    sizes = isinstance(shape, list) and len(shape) <= 64 and all(is_integer(n, 0, 2**48) for n in shape)
    ends = isinstance(span, list) and len(span) == 2 and all(is_integer(n, 0, 2**62) for n in span)
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES or not sizes or not ends:
        raise ValueError("its header describes a tensor that no checkpoint holds")
    if span[1] - span[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError("its header gives a tensor another size than its shape and type have")
    return span[0], span[1]


def embedded_state(raw: bytes) -> bytes | None:
    """The state that `_tensors.encode` put into a file's header, or None. For files that passed `check`."""
    header = read_json(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    metadata = header.get("__metadata__")
    text = metadata.get(STATE) if isinstance(metadata, dict) else None
    return text.encode() if isinstance(text, str) else None


def read_state(raw: bytes, step: int) -> dict[str, Any]:
    """Decode the state of `step`. Raises ValueError if a run cannot resume from it."""
    values = read_json(raw)
    if not is_integer(values.get("step"), step, step):
        raise ValueError(f"it is not of step {step}")
    for name in ("accuracy", "best_accuracy", "last_accuracy", "test_accuracy"):
        if values.get(name) is not None and not is_number(values[name]):
            raise ValueError(f"{name} is no number")
    for name in ("config", "data", "engine", "environment", "strategies"):
        if values.get(name) is not None and not isinstance(values[name], dict):
            raise ValueError(f"{name} is no object")
    return values
