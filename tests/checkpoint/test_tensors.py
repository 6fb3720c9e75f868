"""Tensors to bytes: even shares, copies that reuse their memory, and files that the safetensors package reads."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from dydist.checkpoint import _tensors
from dydist.checkpoint._tensors import (
    HostCopy,
    HostMemory,
    TrainingState,
    assign_shares,
    decode,
    encode,
    split,
)


def test_shares_are_filled_with_the_largest_first() -> None:
    sizes = {"a": 3, "b": 3, "c": 4, "d": 5, "e": 3}
    assert assign_shares(sizes, 2) == {"d": 0, "c": 1, "a": 1, "b": 0, "e": 1}
    assert assign_shares({"b": 1, "a": 1}, 2) == {"a": 0, "b": 1}  # equal ones by name, whoever asks


def test_a_share_is_measured_in_bytes() -> None:
    model = {
        "wide": torch.zeros(4, dtype=torch.float64),
        "two": torch.zeros(5, dtype=torch.float32),
        "three": torch.zeros(5, dtype=torch.int8),
    }
    state = TrainingState(
        step=0, model=model, optimizer={"wide": torch.zeros(1)}, ema={"wide": torch.zeros(1)}
    )
    shares = split(state, 2)
    assert shares[0]["model"]["wide"] is model["wide"]
    assert {
        share: {kind: sorted(named) for kind, named in kinds.items()} for share, kinds in shares.items()
    } == {
        0: {"model": ["wide"]},
        1: {"model": ["three", "two"], "ema": ["wide"], "optimizer": ["wide"]},
    }


def one_share(tensor: Tensor) -> dict[int, dict[str, dict[str, Tensor]]]:
    return {0: {"model": {"weight": tensor}}}


def test_a_copy_keeps_its_memory_until_shape_or_type_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "PIECE", 1000)  # several pieces, the last one short
    place = HostCopy()
    seen = []
    for source in (
        torch.arange(1200.0),
        torch.arange(1200.0) + 1,
        torch.arange(1200.0).view(30, 40),
        torch.arange(1200, dtype=torch.int32).view(30, 40),
        torch.arange(1200, dtype=torch.int32).view(40, 30).t(),  # not contiguous
    ):
        copy = place.take(one_share(source))[0]["model"]["weight"]
        assert (copy.dtype, copy.shape) == (source.dtype, source.shape)
        assert torch.equal(copy, source)
        assert copy.data_ptr() != source.data_ptr()
        seen.append(copy)
    places = [copy.data_ptr() for copy in seen]  # all are held here, so no address is given out twice
    assert places[0] == places[1]
    assert places[3] == places[4]
    assert len({*places}) == 3


def test_there_is_room_for_two_copies_and_one_is_kept() -> None:
    memory = HostMemory()
    first = memory.reserve()
    assert memory.free
    second = memory.reserve()
    assert second is not first
    assert not memory.free
    first.release()
    assert memory.free
    assert memory.reserve() is first
    assert not memory.free
    first.release()
    second.release()
    kept = memory.reserve()
    assert kept in (first, second)
    assert memory.reserve() not in (first, second)  # of two that are idle the other one is dropped


def test_a_file_is_what_the_safetensors_package_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tensors, "CHUNK", 16)
    tensors = {
        **{f"of {dtype}": torch.arange(7).to(dtype) for dtype in _tensors._DTYPES},
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "transposed": torch.arange(12.0).view(3, 4).t(),
    }
    first, *rest = (bytes(chunk) for chunk in encode(tensors))
    assert max(map(len, rest)) == 16
    assert int.from_bytes(first[:8], "little") == len(first) - 8
    assert json.loads(first[8:])["transposed"]["shape"] == [4, 3]
    read = decode(b"".join([first, *rest]))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_the_tensors_begin_at_a_multiple_of_eight_bytes() -> None:
    for letters in range(8):
        header = next(encode({"x" * letters: torch.zeros(1)}))
        assert len(header) % 8 == 0


def test_a_type_that_no_checkpoint_holds_is_named() -> None:
    with pytest.raises(TypeError, match=r"tensor 'phase' is of torch\.complex64"):
        list(encode({"phase": torch.zeros(2, dtype=torch.complex64)}))
