"""Folders that nobody's save wrote: named, passed over, and never the reason to remove a good checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dydist.checkpoint import (
    DamagedError,
    Keep,
    Manifest,
    NewerFormatError,
    Storage,
    copy_checkpoint,
    folder_name,
    inspect,
    load,
    open_storage,
    prune,
    step_of,
    survey,
    verify,
)
from dydist.checkpoint._format import FileEntry, _seal, encode_json
from dydist.checkpoint._housekeeping import remove_attempt
from dydist.checkpoint._lease import _decode, this_process
from dydist.checkpoint._save import Save, write_hashed
from dydist.checkpoint._stage import prune_stage
from dydist.checkpoint._tensors import encode
from dydist.storage.local import LocalStorage
from helpers.checkpoint_places import STORES, Place, place_on
from helpers.checkpoint_states import assert_same, state_at

HASH = hashlib.sha256(b"").hexdigest()
Files = dict[str, bytes]


def save_at(step: int, attempt: str, accuracy: float | None = None) -> Save:
    state = state_at(step)
    values = {**state.extra, "step": step, "accuracy": accuracy, "attempt": attempt}
    return Save(
        step=step,
        attempt=attempt,
        accuracy=accuracy,
        final=False,
        state=encode_json(values),
        shares={0: {kind: dict(tensors) for kind, tensors in state.kinds().items()}},
        memory=None,
        started=0.0,
        deadline=0.0,
    )


def write_files(storage: Storage, save: Save) -> dict[str, FileEntry]:
    working = storage.working_folder(save.folder, save.attempt)
    files = save.files([0], 1, with_state=True)
    return {name: write_hashed(storage, f"{working}/{name}", chunks) for name, chunks in files.items()}


def publish(storage: Storage, save: Save, files: dict[str, FileEntry]) -> None:
    manifest = Manifest(
        step=save.step,
        attempt=save.attempt,
        run="test",
        job="",
        host="here",
        written_at=time.time(),
        accuracy=save.accuracy,
        world_size=1,
        files=files,
    )
    storage.publish(storage.working_folder(save.folder, save.attempt), save.folder, manifest.encode())


def good(storage: Storage, step: int, accuracy: float | None = None) -> None:
    save = save_at(step, f"{step:012x}", accuracy)
    publish(storage, save, write_files(storage, save))


def forged(storage: Storage, step: int, files: Files, accuracy: float | None = None) -> None:
    """A checkpoint of any files, under the right hashes."""
    save = save_at(step, "f0f0f0", accuracy)
    working = storage.working_folder(save.folder, save.attempt)
    entries = {
        name: write_hashed(storage, f"{working}/{name}", lambda data=data: [data])  # type: ignore[misc]
        for name, data in files.items()
    }
    storage.write(f"{working}/kept", lambda: [b"x"])
    publish(storage, save, entries)


TENSORS = b"".join(bytes(chunk) for chunk in encode(state_at(9).model))
STATE = encode_json({"step": 9, "accuracy": None})
MODEL = "model-00000-of-00001-f0f0f0.safetensors"


def header(values: Any, data: bytes = b"") -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
UNLOADABLE: dict[str, Files] = {
    "no files": {},
    "no weights": {"state.json": STATE},
    "no state": {MODEL: TENSORS},
    "garbage": {MODEL: b"garbage" * 99, "state.json": STATE},
    "empty": {MODEL: b"", "state.json": STATE},
    "long header": {MODEL: (2**63).to_bytes(8, "little"), "state.json": STATE},
    "nested header": {MODEL: header(b"[" * 200_000), "state.json": STATE},
    "no tensors": {MODEL: header({}), "state.json": STATE},
    "cut data": {MODEL: header({"a": ONE}, b"123"), "state.json": STATE},
    "more data": {MODEL: header({"a": ONE}, b"12345"), "state.json": STATE},
    "a hole": {MODEL: header({"a": {**ONE, "data_offsets": [4, 8]}}, b"12345678"), "state.json": STATE},
    "another size": {MODEL: header({"a": {**ONE, "shape": [2]}}, b"1234"), "state.json": STATE},
    "huge": {MODEL: header({"a": {**ONE, "shape": [10**30]}}, b"1234"), "state.json": STATE},
    "odd type": {MODEL: header({"a": {**ONE, "dtype": "C64"}}, b"1234"), "state.json": STATE},
    "a tensor twice": {
        "model-00000-of-00002-f0f0f0.safetensors": TENSORS,
        "model-00001-of-00002-f0f0f0.safetensors": TENSORS,
        "state.json": STATE,
    },
    "another save's file": {"model-00000-of-00001-e1e1e1.safetensors": TENSORS, "state.json": STATE},
    "no such share": {"model-00001-of-00001-f0f0f0.safetensors": TENSORS, "state.json": STATE},
    "state of another step": {MODEL: TENSORS, "state.json": encode_json({"step": 8})},
    "state without a step": {MODEL: TENSORS, "state.json": b"{}"},
    "state is a list": {MODEL: TENSORS, "state.json": b"[9]"},
    "state nests": {MODEL: TENSORS, "state.json": b"[" * 200_000},
    "state of wrong types": {MODEL: TENSORS, "state.json": encode_json({"step": 9, "config": 3})},
    "state with a key twice": {MODEL: TENSORS, "state.json": b'{"step": 9, "step": 9}'},
}


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return open_storage(place_on(request.param, request).url)


@pytest.mark.parametrize("name", UNLOADABLE)
def test_what_cannot_be_loaded_is_no_reason_to_remove_what_can(storage: Storage, name: str) -> None:
    good(storage, 1)
    good(storage, 2)
    forged(storage, 9, UNLOADABLE[name], accuracy=1.0)
    told: list[str] = []
    assert prune(storage, Keep(keep=1, keep_best=False), now=time.time(), on_damaged=told.append)[0].step == 1
    found = survey(storage)
    assert [item.step for item in found] == [9, 2]
    assert found[0].problem is not None or len(told) == 1
    verify(storage, found[1])
    assert_same(load(storage, found[1]), state_at(2))
    for use in (verify, load):
        with pytest.raises(DamagedError):
            use(storage, found[0])


@pytest.mark.parametrize("name", UNLOADABLE)
def test_what_cannot_be_loaded_takes_no_place_on_the_stage(tmp_path: Path, name: str) -> None:
    stage, trusted = LocalStorage(tmp_path), set[str]()
    for step in (1, 2, 3):
        good(stage, step)
    forged(stage, 9, UNLOADABLE[name], accuracy=1.0)
    prune_stage(stage, 2, staged_step=9, trusted=trusted)
    assert [item.step for item in survey(stage)] == [3, 2]
    assert trusted == {f"{step:012x}" for step in (2, 3)}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_what_cannot_be_loaded_is_not_copied(storage: Storage, tmp_path: Path, name: str) -> None:
    forged(storage, 9, UNLOADABLE[name])
    target = LocalStorage(tmp_path / "target")
    for _ in range(2):  # the second time its files may lie there
        with pytest.raises(DamagedError):
            copy_checkpoint(storage, target, inspect(storage, folder_name(9)))
    assert survey(target) == []


def test_the_best_is_kept_by_what_can_be_loaded(storage: Storage) -> None:
    """A damaged checkpoint with the highest accuracy does not take the place of the best one."""
    for step, accuracy in ((1, 0.9), (2, 0.5), (4, 0.4)):
        good(storage, step, accuracy)
    save = save_at(3, "abcdef", 1.0)
    files = write_files(storage, save)
    publish(storage, save, {**files, "state.json": FileEntry(bytes=files["state.json"].bytes, sha256=HASH)})
    told: list[str] = []
    assert [item.step for item in prune(storage, Keep(keep=1), now=time.time(), on_damaged=told.append)] == [
        2
    ]
    assert [item.step for item in survey(storage)] == [4, 3, 1]
    assert len(told) == 1


@pytest.mark.parametrize("store", STORES)
def test_a_slower_save_of_the_same_step_changes_no_committed_checkpoint(
    store: str, request: pytest.FixtureRequest
) -> None:
    """A run that was taken for dead writes its files after its successor's commit, and never commits."""
    place: Place = place_on(store, request)
    storage = open_storage(place.url, place.options)
    first, slower = save_at(5, "aaaaaaaaaaaa"), save_at(5, "bbbbbbbbbbbb", 0.25)
    publish(storage, first, write_files(storage, first))
    write_files(storage, slower)
    found = survey(storage)[0]
    assert found.problem is None
    verify(storage, found)
    assert load(storage, found).extra["attempt"] == "aaaaaaaaaaaa"
    assert copy_checkpoint(storage, open_storage(f"{place.url}-copy", place.options), found)
    remove_attempt(storage, slower.folder, slower.attempt)
    assert load(storage, survey(storage)[0]).extra["attempt"] == "aaaaaaaaaaaa"


@pytest.mark.parametrize("store", ["file", "memory"])
def test_a_save_that_was_committed_though_it_failed_is_not_swept(
    store: str, request: pytest.FixtureRequest
) -> None:
    """Its last request took effect and the answer was lost: to its process it failed."""
    storage = open_storage(place_on(store, request).url)
    good(storage, 5)
    remove_attempt(storage, folder_name(5), f"{5:012x}")
    verify(storage, survey(storage)[0])


def manifest_with(**values: Any) -> bytes:
    raw = Manifest(
        step=9, attempt="f0f0f0", run="r", job="", host="h", written_at=1.0, accuracy=0.5, world_size=1,
        files={MODEL: FileEntry(bytes=1, sha256=HASH), "state.json": FileEntry(bytes=1, sha256=HASH)},
    ).encode()  # fmt: skip
    good_values = json.loads(raw)
    del good_values["checksum"]
    return _seal({**good_values, **values})


ENTRY = {"bytes": 1, "sha256": HASH}
MALFORMED = {
    "nested": b"[" * 200_000,
    "nested object": b'{"a":' * 200_000,
    "infinite": b'{"checksum": "", "format": "dydist-checkpoint", "version": 1e999}',
    "long number": b"1" * 5000,
    "not UTF-8": b"\xff\xfe\xfa",
    "twice": manifest_with().replace(b'"run": "r",', b'"run": "q",\n "run": "r",'),
    **{f"version {v!r}": manifest_with(version=v) for v in (0, -1, True, 1.0, "1", None, [1])},
    **{f"step {v!r}": manifest_with(step=v) for v in (-1, True, 9.0, "9", None, 10**15, 10**400)},
    **{f"written {v!r}"[:30]: manifest_with(written_at=v) for v in (1e300, 10**400, "1", None, float("inf"))},
    **{f"accuracy {v!r}": manifest_with(accuracy=v) for v in (float("nan"), "1", [], True)},
    **{f"world {v!r}": manifest_with(world_size=v) for v in (0, -1, 1.5, True, None)},
    **{f"run {v!r}"[:30]: manifest_with(run=v) for v in (1, None, "\ud800", "x" * 2000, ["x"])},
    **{f"attempt {v!r}": manifest_with(attempt=v) for v in ("", "../x", 1, "a b", "é")},
    **{f"files {v!r}"[:30]: manifest_with(files=v) for v in ([], None, "x", {"a": 1}, {"a": {}})},
    **{
        f"file {n!r}": manifest_with(files={n: ENTRY})
        for n in ("../x", "/etc/passwd", "a/b", "", ".hidden", "a b", "a\n", "\x1b[2J", "MANIFEST.json", "٣")
    },
    **{
        f"entry {e!r}"[:40]: manifest_with(files={"a": e})
        for e in (
            {**ENTRY, "bytes": -1},
            {**ENTRY, "bytes": 1.5},
            {**ENTRY, "sha256": "x"},
            {**ENTRY, "x": 1},
        )
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_named_and_passed_over(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(tmp_path)
    good(storage, 2)
    (tmp_path / folder_name(9)).mkdir()
    (tmp_path / folder_name(9) / "MANIFEST.json").write_bytes(MALFORMED[name])
    bad, whole = survey(storage)
    assert bad.problem is not None
    assert "MANIFEST.json" in bad.problem
    assert len(bad.problem) < 400
    assert whole.problem is None
    assert prune(storage, Keep(keep=1), now=time.time() + 10 * 24 * 3600) == []
    assert bad.folder in storage.folders()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("step", "attempt", "run", "job", "host", "written_at", "accuracy", "world_size", "files", "version")


@given(changes=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), json_values, max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_manifest_is_read_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(DamagedError, NewerFormatError):
        Manifest.decode(manifest_with(**changes)).lack  # noqa: B018


@given(raw=st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_manifest_or_none_and_a_lease_or_none(raw: bytes) -> None:
    with pytest.raises(DamagedError):
        Manifest.decode(raw)
    assert _decode(raw) is None


LEASE = vars(this_process(run="r", job="j", host="h", now=1.0))


@given(changes=st.dictionaries(st.sampled_from(sorted(LEASE)) | st.text(max_size=8), json_values, max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_lease_is_read_or_none(changes: dict[str, Any]) -> None:
    holder = _decode(encode_json({**LEASE, **changes}))
    if holder is not None:
        assert isinstance(holder.describe(), str)
        holder.describe().encode()


def test_a_lease_is_read_as_it_was_written() -> None:
    holder = _decode(encode_json(LEASE))
    assert holder is not None
    assert vars(holder) == LEASE


@pytest.mark.parametrize("field", ["pid", "acquired_at", "process_started", "beat_at"])
@pytest.mark.parametrize("value", [10**400, 1e300, -1e300, "1", None, [], True, float("nan")])
def test_a_lease_with_a_number_beyond_use_is_none(field: str, value: object) -> None:
    assert _decode(encode_json({**LEASE, field: value})) is None


@pytest.mark.parametrize(
    "name",
    ["step-٠٠٠٠٠٠٠٠٩", "step-0000000009", "step-9", f"step-{10**15}", "step-00000000²", "step-000000009 "],
)
def test_names_that_only_look_like_a_step(name: str) -> None:
    assert step_of(name) is None


def make_folder(path: Path) -> None:
    path.mkdir()


def make_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [make_folder, make_circle])
@pytest.mark.parametrize("name", [f"{folder_name(9)}/MANIFEST.json", folder_name(9)])
def test_a_folder_or_a_circle_where_a_file_should_be(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    storage = LocalStorage(tmp_path)
    good(storage, 2)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    assert [item.step for item in survey(storage) if item.problem is None] == [2]
    assert prune(storage, Keep(keep=1), now=time.time() + 10 * 24 * 3600) == []
    storage.delete_folder(folder_name(9))
    assert folder_name(9) not in storage.folders()


def test_checkpoints_of_version_0_1_are_read(tmp_path: Path) -> None:
    """Their state is in state.json alone."""
    shutil.copytree(Path(__file__).parent / "format-1", tmp_path / "place")
    storage = LocalStorage(tmp_path / "place")
    found = survey(storage)[0]
    verify(storage, found)
    assert_same(load(storage, found), state_at(42))
