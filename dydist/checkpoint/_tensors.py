"""Tensors to bytes and back: shares, host copies, and safetensors files as chunks of bytes.

The safetensors package writes a file or one large byte string. To hash and write chunks without a second copy of the
state, this module writes the format itself (an 8-byte length, a JSON header, the tensors' bytes:
https://huggingface.co/docs/safetensors, "Format"). The package reads it back.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dydist.checkpoint._content import DTYPE_BYTES
from dydist.checkpoint._format import STATE

CHUNK = 4 << 20
"""Maximum bytes per chunk, which is hashed and written at once."""
PIECE = 8 << 20
"""Bytes that a thread copies in one call."""
COPY_THREADS = 4
"""Maximum number of copy threads per process; more do not add bandwidth."""

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
assert set(_DTYPES.values()) == DTYPE_BYTES.keys()


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The complete state of a run: full, unsharded tensors under plain parameter names.

    `step`: finished optimizer steps. `model`: parameters and buffers. `optimizer`: momentum buffers, such as
    "momentum.layer1.0.conv1.weight". `ema`: averaged weights, or empty. `extra`: plain JSON values for state.json
    (configuration, seed, world size, accuracy, precision scaler, versions).
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    ema: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def kinds(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors by the kind of file they go to."""
        return {"model": self.model, "optimizer": self.optimizer, "ema": self.ema}


def assign_shares(sizes: Mapping[str, int], shares: int) -> dict[str, int]:
    """Assign tensors (name → bytes) to `shares` shares of about equal size: name → share.

    Largest first, each to the smallest share so far (LPT rule, Graham 1969). A pure function of names and sizes, so
    all processes agree without communication.
    """
    load = [(0, share) for share in range(shares)]  # a heap
    result = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        used, share = load[0]
        result[name] = share
        heapq.heapreplace(load, (used + sizes[name], share))
    return result


Shares = Mapping[int, Mapping[str, Mapping[str, Tensor]]]
"""Share → kind → name → tensor."""


def split(state: TrainingState, shares: int) -> Shares:
    """Split a state's tensors into `shares` shares of about equal size."""
    tensors = _flat(state.kinds())
    sizes = {f"{kind}/{name}": t.numel() * t.element_size() for (kind, name), t in tensors.items()}
    share_of = assign_shares(sizes, shares)
    result: dict[int, dict[str, dict[str, Tensor]]] = {share: {} for share in range(shares)}
    for (kind, name), tensor in tensors.items():
        result[share_of[f"{kind}/{name}"]].setdefault(kind, {})[name] = tensor
    return result


def _flat(kinds: Mapping[str, Mapping[str, Tensor]]) -> dict[tuple[str, str], Tensor]:
    return {(kind, name): tensor for kind, named in kinds.items() for name, tensor in named.items()}


class HostCopy:
    """Host memory for one copy of tensors, reused by the next copy; page-locked if the source is on a GPU."""

    def __init__(self) -> None:
        self.busy = False
        self._memory: dict[tuple[str, str], Tensor] = {}

    def release(self) -> None:
        """Allow the memory to be reused."""
        self.busy = False

    def take(self, shares: Shares) -> Shares:
        """Copy tensors; returns when the copies are complete. They are valid until the next call."""
        memory, devices, here = {}, set(), []
        for kinds in shares.values():
            for (kind, name), source in _flat(kinds).items():
                kept = self._memory.get((kind, name))
                if kept is None or kept.shape != source.shape or kept.dtype != source.dtype:
                    kept = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
                memory[kind, name] = kept
                if source.is_cuda:
                    kept.copy_(source.detach(), non_blocking=True)
                    devices.add(source.device)
                elif source.is_contiguous():
                    here.append((_bytes(source.detach()), _bytes(kept)))
                else:
                    kept.copy_(source.detach())
        _copy_bytes(here)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        self._memory = memory
        return {
            share: {kind: {name: memory[kind, name] for name in named} for kind, named in kinds.items()}
            for share, kinds in shares.items()
        }


def _copy_bytes(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy each pair's first array to its second, with a few threads that synchronize once.

    One core cannot saturate memory bandwidth. torch's copy synchronizes its threads after each tensor, which took ten
    times as long on a busy machine.
    """
    pieces = [
        (source[start : start + PIECE], target[start : start + PIECE])
        for source, target in pairs
        for start in range(0, len(source), PIECE)
    ]
    with ThreadPoolExecutor(min(COPY_THREADS, os.cpu_count() or 1)) as threads:
        for _ in threads.map(lambda piece: np.copyto(piece[1], piece[0]), pieces):
            pass


def _bytes(tensor: Tensor) -> np.ndarray:
    """A contiguous host tensor's memory, uint8 [bytes]."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


class HostMemory:
    """Host memory for one copy of the state, and for a second one while the first is being written."""

    def __init__(self) -> None:
        self._copies: list[HostCopy] = []

    @property
    def free(self) -> bool:
        """Whether there is room for one more copy."""
        return sum(copy.busy for copy in self._copies) < 2

    def reserve(self) -> HostCopy:
        """Memory for a copy; release it when the copy is written. Memory of a second copy is not retained."""
        idle = [copy for copy in self._copies if not copy.busy]
        chosen = idle[0] if idle else HostCopy()
        self._copies = [copy for copy in self._copies if copy.busy] + [chosen]
        chosen.busy = True
        return chosen


def encode(tensors: Mapping[str, Tensor], state: str | None = None) -> Iterator[memoryview | bytes]:
    """The bytes of a safetensors file, in chunks of at most CHUNK bytes that point into the tensors' memory.

    `state`: the content of state.json, for the file's header (`_content.embedded_state` reads it).
    """
    header: dict[str, Any] = {} if state is None else {"__metadata__": {STATE: state}}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"tensor {name!r} is of {tensor.dtype}, which a checkpoint cannot hold")
        size = tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            raw = memoryview(_bytes(tensor.contiguous()).data)
            for start in range(0, len(raw), CHUNK):
                yield raw[start : start + CHUNK]


def decode(raw: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load

    return load(raw)
