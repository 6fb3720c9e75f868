"""The format: today's sample stays readable, newer ones are refused, no flipped bit or cut byte goes unseen."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from dydist.checkpoint import (
    CheckpointFolder,
    DamagedError,
    NewerFormatError,
    inspect,
    load,
    open_storage,
    survey,
    verify,
)
from dydist.checkpoint._format import Manifest, _seal
from dydist.errors import UserError
from dydist.storage.local import LocalStorage
from dydist.storage.names import folder_name, leftover_step, step_of
from helpers.checkpoint_states import assert_same, state_at

SAMPLE = Path(__file__).parent / "format-1"
"""Written by two processes with format version 1. It is never written again: old checkpoints must stay readable."""
FOLDER = "step-000000042"


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    shutil.copytree(SAMPLE, tmp_path / "place")
    return LocalStorage(tmp_path / "place")


def read_all(storage: LocalStorage) -> CheckpointFolder:
    """Trust a checkpoint only after every byte was compared."""
    found = inspect(storage, FOLDER)
    verify(storage, found)
    return found


def test_the_sample_is_still_readable(place: LocalStorage) -> None:
    found = read_all(place)
    assert_same(load(place, found), state_at(42))
    assert found.manifest is not None
    assert (found.manifest.accuracy, found.manifest.world_size) == (0.875, 2)


def test_a_manifest_is_written_as_in_the_sample() -> None:
    raw = (SAMPLE / FOLDER / "MANIFEST.json").read_bytes()
    assert Manifest.decode(raw).encode() == raw


def test_folder_names_tell_the_step_and_nothing_else_does() -> None:
    assert step_of(folder_name(42)) == 42
    assert step_of(folder_name(12_345_678_901)) == 12_345_678_901
    assert (
        leftover_step(".step-000000042.9b0c.partial") == leftover_step(".step-000000042.9b0c.replaced") == 42
    )
    for other in ("step-42", "step-000000042.old", ".step-000000042.9b0c.partial", "latest"):
        assert step_of(other) is None
    for other in (FOLDER, ".step-000000042.partial", ".step-000000042.9b0c.partial.old"):
        assert leftover_step(other) is None


def test_a_damaged_manifest_says_what_is_wrong() -> None:
    good = (SAMPLE / FOLDER / "MANIFEST.json").read_bytes()
    values = json.loads(good)
    del values["checksum"]
    for bad, message in (
        (good[:-10], r"MANIFEST\.json cannot be read: JSONDecodeError"),
        (b"[]", r"MANIFEST\.json cannot be read"),
        (good.replace(b"0.875", b"0.975"), r"MANIFEST\.json does not match its own checksum"),
        (_seal({**values, "format": "another"}), r"MANIFEST\.json does not match its own checksum"),
        (good + b"\n", r"MANIFEST\.json was altered"),
        (_seal({**values, "surprise": 1}), r"MANIFEST\.json lacks what a version 1 manifest has"),
    ):
        with pytest.raises(DamagedError, match=message):
            Manifest.decode(bad)


def test_a_newer_format_is_refused_and_not_passed_over(place: LocalStorage) -> None:
    name = f"{FOLDER}/MANIFEST.json"
    values = json.loads(b"".join(place.read(name)))
    del values["checksum"]
    place.write(name, lambda: [_seal({**values, "version": 2, "something": "new"})])
    with pytest.raises(NewerFormatError, match=r"version 2; .* up to 1; upgrade dydist") as caught:
        survey(place)
    assert isinstance(caught.value, UserError)


def test_every_flipped_bit_and_cut_is_detected(place: LocalStorage) -> None:
    """1,000 random ones, over all files by their size and each file at least 100 times."""
    dice = random.Random(5)
    files = list((place.root / FOLDER).iterdir())
    sizes = [path.stat().st_size for path in files]
    chosen = [path for path in files for _ in range(100)]
    chosen += dice.choices(files, sizes, k=1000 - len(chosen))
    for path in chosen:
        good = path.read_bytes()
        if dice.random() < 0.3:
            path.write_bytes(good[: dice.randrange(len(good))])
        else:
            bad, place_in_file = bytearray(good), dice.randrange(len(good))
            bad[place_in_file] ^= 1 << dice.randrange(8)
            path.write_bytes(bad)
        with pytest.raises(DamagedError):
            read_all(place)
        path.write_bytes(good)
    read_all(place)


def test_bytes_spoilt_on_the_way_are_read_again(place: LocalStorage) -> None:
    """A store that once gives wrong bytes back does not cost a good checkpoint."""

    class Spoiling(LocalStorage):
        spoilt: set[str] = set()  # noqa: RUF012

        def read(self, name: str):  # type: ignore[no-untyped-def]
            for chunk in super().read(name):
                if name not in self.spoilt:
                    self.spoilt.add(name)
                    yield bytes([chunk[0] ^ 1]) + chunk[1:]
                else:
                    yield chunk

    storage = Spoiling(place.root)
    assert_same(load(storage, inspect(storage, FOLDER)), state_at(42))
    assert len(storage.spoilt) > 3


def test_open_storage_takes_paths_and_file_urls(place: LocalStorage) -> None:
    assert isinstance(open_storage(str(place.root)), LocalStorage)
    assert open_storage(f"file://{place.root}").url == str(place.root)
