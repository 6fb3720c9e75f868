"""Which checkpoint is meant, and what is read from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dydist.checkpoint import Manifest, copy_checkpoint, open_storage, survey
from dydist.checkpoint import load as load_state
from dydist.checkpoint._format import FileEntry
from dydist.errors import UserError
from dydist.inference import TrainedModel, load_trained
from dydist.inference.trained import temperature_at
from dydist.schedules import temperature
from helpers.trained_run import STEPS, load


def test_a_run_a_place_and_a_step_are_the_same_checkpoint(run_dir: Path, model: TrainedModel) -> None:
    place = run_dir / "checkpoints"
    folder = place / f"step-{STEPS:09d}"
    assert model.step == STEPS
    assert model.url == str(folder)
    for where in (place, folder, f"file://{place}"):
        other = load(where)  # type: ignore[arg-type]
        assert other.url == model.url
        assert all(
            torch.equal(a, b)
            for a, b in zip(other.network.parameters(), model.network.parameters(), strict=True)
        )
    assert load(place, step=20).step == 20
    with pytest.raises(
        UserError, match=r"--step: there is no valid checkpoint of step 41 at .*; there are 30, 20, 10"
    ):
        load(place, step=41)
    with pytest.raises(UserError, match=r"checkpoint: no checkpoint at .*nowhere"):
        load(run_dir / "nowhere")


def test_a_checkpoint_at_a_url(run_dir: Path, model: TrainedModel) -> None:
    local, remote = open_storage(str(run_dir / "checkpoints")), open_storage("memory://evaluated")
    for found in survey(local):
        copy_checkpoint(local, remote, found)
    for where in ("memory://evaluated", f"memory://evaluated/step-{STEPS:09d}"):
        other = load_trained(where, open_storage, note=print)
        assert (other.url, other.step) == (f"memory://evaluated/step-{STEPS:09d}", STEPS)
        assert torch.equal(other.network.fc.weight, model.network.fc.weight)


def test_the_average_is_another_network(run_dir: Path, model: TrainedModel) -> None:
    averaged = load(run_dir, averaged=True)
    (found,) = [f for f in survey(open_storage(str(run_dir / "checkpoints"))) if f.step == STEPS]
    state = load_state(open_storage(str(run_dir / "checkpoints")), found)
    assert torch.equal(averaged.network.fc.weight, state.ema["fc.weight"])
    assert not torch.equal(averaged.network.fc.weight, model.network.fc.weight)


def test_the_temperature_is_the_one_of_the_last_step(model: TrainedModel) -> None:
    steps_per_epoch = 5 * 1017 // 64
    expected = temperature(model.config.temperature, step=STEPS - 1, steps_per_epoch=steps_per_epoch)
    assert 1 < expected < 30
    assert model.temperature == expected
    assert float(model.network.layer1[0].conv1.temperature) == pytest.approx(expected)
    assert temperature_at(model.config, model.data, 0) == 30


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    shutil.copytree(run_dir / "checkpoints", place)
    file = next((place / f"step-{STEPS:09d}").glob("model-*"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert load(place).step == 20
    assert "does not match its SHA-256" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none at .* is whole .*SHA-256"):
        load(place / f"step-{STEPS:09d}")


def test_a_checkpoint_describes_its_data_set_and_an_older_one_asks_for_it(
    run_dir: Path, model: TrainedModel, tmp_path: Path, cifar10_exact_root: Path
) -> None:
    state = json.loads((Path(model.url) / "state.json").read_text())
    assert state["data"]["classes"][:2] == ["airplane", "automobile"]
    assert state["data"]["train_images"] == 5 * 1017
    assert state["data"]["side"] == 32
    older = _without_description(run_dir, tmp_path)
    assert load(older).data == model.data
    assert load(older, data_root=str(cifar10_exact_root)).data == model.data
    with pytest.raises(UserError, match=r"does not name the classes.*give --data-root"):
        load(older, data_root=str(tmp_path / "empty"))


def _without_description(run_dir: Path, tmp_path: Path) -> Path:
    """The newest checkpoint as it was written before state.json held `data`."""
    folder = tmp_path / "older" / f"step-{STEPS:09d}"
    shutil.copytree(run_dir / "checkpoints" / folder.name, folder)
    state = json.loads((folder / "state.json").read_text())
    del state["data"]
    raw = json.dumps(state).encode()
    (folder / "state.json").write_bytes(raw)
    manifest = Manifest.decode((folder / "MANIFEST.json").read_bytes())
    entry = FileEntry(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    changed = replace(manifest, files={**manifest.files, "state.json": entry})
    (folder / "MANIFEST.json").write_bytes(changed.encode())
    return folder
