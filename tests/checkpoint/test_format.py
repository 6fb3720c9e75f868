"""The format: today's sample stays readable, newer ones are refused, no flipped bit or cut byte goes unseen."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from checkpoint_states import assert_same, state_at

from dydist.checkpoint import (
    DamagedError,
    Found,
    NewerFormatError,
    inspect,
    load,
    open_storage,
    survey,
    verify,
)
from dydist.checkpoint._format import Manifest, _seal
from dydist.checkpoint._storage import LocalStorage
from dydist.errors import UserError

SAMPLE = Path(__file__).parent / "format-1"
"""Written by two processes with format version 1. It is never written again: old checkpoints must stay readable."""
FOLDER = "step-000000042"


@pytest.fixture
def place(tmp_path: Path) -> LocalStorage:
    shutil.copytree(SAMPLE, tmp_path / "place")
    return LocalStorage(tmp_path / "place")


def read_all(storage: LocalStorage) -> Found:
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
