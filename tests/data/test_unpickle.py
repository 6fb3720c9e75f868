"""The restricted unpickler: what data files hold is read, whatever else a file asks for never happens."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import pickletools
import subprocess
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.data.unpickle import read_pickled_dict


class Calls:
    """Unpickled without care, this calls `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    """Pickles that would make the folder `marker`, or read what they should not, under `pickle.load`."""
    mark = f"import os; os.mkdir({str(marker)!r})"
    by_name = f"(cnumpy\nndarray\n(S'{marker}'\ncos\nmkdir\n(S'{marker}'\ntR"
    return {
        "os.mkdir": pickle.dumps({"data": Calls(os.mkdir, str(marker))}),
        "as a key": pickle.dumps({Calls(os.mkdir, str(marker)): 1}),
        "exec": pickle.dumps({"data": Calls(builtins.exec, mark)}, protocol=0),
        "eval": pickle.dumps({"data": Calls(builtins.eval, f"__import__('os').mkdir({str(marker)!r})")}),
        "a shell": pickle.dumps({"data": Calls(subprocess.Popen, ["mkdir", str(marker)])}, protocol=5),
        "getattr": pickle.dumps({"data": Calls(builtins.getattr, "text", "upper")}),
        "partial": pickle.dumps({"data": Calls(partial(os.mkdir, str(marker)))}),
        "bytes of a size": pickle.dumps({"data": Calls(builtins.bytes, 1 << 40)}),
        "an ordered dict": pickle.dumps(OrderedDict(a=1)),
        "numpy's own loader": b"cnumpy\nload\n(S'x'\ntR.",
        "a name behind a dot": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        "written by hand": by_name.encode() + b".",
        "ndarray called": b"}S'data'\ncnumpy\nndarray\n(I9\ntRs.",
        "a function changed": b"}S'data'\ncnumpy\ndtype\n}S'x'\nI1\nsbs.",
        "another codec": b"c_codecs\nencode\n(S'x'\nS'idna'\ntR.",
        "an object outside": b"Pelsewhere\n.",
        "extension registry": b"\x82\x01.",
        "an array of objects": pickle.dumps({"data": np.array([Calls(os.mkdir, str(marker))], dtype=object)}),
    }


@pytest.mark.parametrize("name", hostile_pickles(Path("x")))
def test_a_hostile_file_executes_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(hostile_pickles(tmp_path / "executed")[name])
    with pytest.raises(pickle.UnpicklingError):
        read_pickled_dict(path)
    assert not (tmp_path / "executed").exists()


def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    """The marker appears under Python's own loader: the test above can fail."""
    for name in ("os.mkdir", "as a key", "exec", "eval", "partial", "written by hand", "an array of objects"):
        marker = tmp_path / name.replace(" ", "-")
        with contextlib.suppress(
            Exception
        ):  # what it returns may not fit where it stands; by then it has run
            pickle.loads(hostile_pickles(marker)[name])
        assert marker.exists(), name


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros((2, 3), dtype="O")},
        {"data": np.zeros(2, dtype="M8[s]")},
        {"data": np.zeros(2, dtype=[("a", "u1")])},
        [1, 2],
        b"text",
    ],
    ids=["objects", "dates", "records", "list", "bytes"],
)
def test_other_contents_are_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        read_pickled_dict(path)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtype=st.sampled_from(["u1", "<i8", ">i4", "<f4", ">f8", "i2"]),
    fortran=st.booleans(),
    protocol=st.integers(0, 5),
)
def test_arrays_come_back_as_they_were(
    shape: list[int], dtype: str, fortran: bool, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.getbasetemp() / "array.pickle"
    path.write_bytes(pickle.dumps({"data": array, "n": 3, "names": ["a", b"b"]}, protocol=protocol))
    found = read_pickled_dict(path)
    assert found["data"].dtype == array.dtype
    assert np.array_equal(found["data"], array)
    assert (found["n"], found["names"]) == (3, ["a", b"b"])


@pytest.mark.parametrize("shape", [(3, 4), (-2, -3), (True, 6), [2, 3], (2**40, 2**40)])
def test_a_shape_that_does_not_fit_the_bytes_is_refused(shape: Any, tmp_path: Path) -> None:
    plain = np.zeros((2, 3), np.uint8).__reduce__()
    state = (1, shape, *plain[2][2:])  # type: ignore[index]
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"data": _Reduced(plain[0], plain[1], state)}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="shape"):
        read_pickled_dict(path)


def test_bytes_that_are_no_whole_number_of_values_are_refused(tmp_path: Path) -> None:
    plain = np.zeros(1, np.int64).__reduce__()
    state = (1, (1,), np.dtype("i8"), False, b"1234567")
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"data": _Reduced(plain[0], plain[1], state)}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="holds 7 bytes for an array of int64"):
        read_pickled_dict(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x02}r\xff\xff\xff\x0f.", b"}p268435455\n."], ids=["binary", "text"]
)
def test_a_dozen_bytes_do_not_take_gigabytes(content: bytes, tmp_path: Path) -> None:
    """Python's loader takes 4 GB for this file, and then reads it as an empty dict."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="numbers a part 268435455"):
        read_pickled_dict(path)


class _Reduced:
    """Pickles as the given call and state."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_or_missing_byte_ends_in_one_kind_of_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3], b"name": b"x"}
    whole = bytearray(pickle.dumps(content, protocol=2))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.pickle"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    with contextlib.suppress(pickle.UnpicklingError):
        assert isinstance(read_pickled_dict(path), dict)


def test_what_the_published_files_ask_for_is_what_is_known(cifar10_exact_root: Path) -> None:
    path = cifar10_exact_root / "cifar-10-batches-py" / "data_batch_1"
    asked = {argument for code, argument, _ in pickletools.genops(path.read_bytes()) if code.name == "GLOBAL"}
    assert {name.replace("_core", "core") for name in asked} == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
