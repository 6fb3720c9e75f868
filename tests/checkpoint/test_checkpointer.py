"""A run's view of checkpoints, with one process, on every store: save, restore, choose, refuse, prune."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_safetensors

from dydist.checkpoint import (
    Checkpointer,
    LeaseHeldError,
    LeaseTiming,
    RunInfo,
    Storage,
    inspect,
    load,
    open_storage,
    survey,
)
from dydist.config import CheckpointConfig
from dydist.errors import UserError
from dydist.records import CheckpointRecord
from helpers.checkpoint_places import Place
from helpers.checkpoint_states import assert_same, state_at

Make = Callable[..., Checkpointer]


a_choice = pytest.mark.parametrize("place", ["file", "memory"], indirect=True)
"""What a start decides from what it reads: the same whatever the store."""


class Told:
    """What a run was told."""

    def __init__(self) -> None:
        self.records: list[CheckpointRecord] = []
        self.notes: list[str] = []

    def note(self, text: str, *, level: str = "info") -> None:
        self.notes.append(text)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def storage(place: Place) -> Storage:
    return open_storage(place.url, place.options)


@pytest.fixture
def make(place: Place, told: Told, tmp_path: Path) -> Any:
    """Makes a run's checkpointer; closes it at the end."""
    made = []

    def build(*, job: str = "", url: str = place.url, **config: Any) -> Checkpointer:
        made.append(
            Checkpointer(
                CheckpointConfig(stage_dir=str(tmp_path / "stage"), storage_options=place.options, **config),
                RunInfo(name="test", url=url, job=job),
                on_record=told.records.append,
                on_note=told.note,
                lease_timing=LeaseTiming(interval_s=0.25, timeout_s=10.0),
            )
        )
        return made[-1]

    yield build
    for checkpointer in made:
        checkpointer.close()


def run_to(checkpointer: Checkpointer, *steps: int, accuracy: float | None = None) -> None:
    """Save steps, each waited for."""
    for step in steps:
        checkpointer.save(step, lambda step=step: state_at(step), accuracy=accuracy, final=True)


def file_of(storage: Storage, step: int, kind: str) -> str:
    return next(name for name in storage.files(f"step-{step:09d}") if name.startswith(kind))


def test_what_was_saved_comes_back(make: Make, told: Told, storage: Storage) -> None:
    first = make()
    assert first.restore() is None
    run_to(first, 3, 12, accuracy=0.5)
    first.close()
    second = make()
    assert_same(second.restore(), state_at(12))
    second.close()
    assert [(r.step, r.error) for r in told.records] == [(3, None), (12, None)]
    assert told.records[-1].bytes > 0
    assert sorted(storage.folders()) == ["step-000000003", "step-000000012"]
    assert storage.size("LEASE.json") is None
    assert len(storage.files("step-000000012")) == 5


def test_the_copy_is_taken_before_save_returns(make: Make) -> None:
    """Weights that change right after `save` do not reach the checkpoint."""
    live = state_at(5)
    checkpointer = make()
    checkpointer.restore()
    checkpointer.save(5, lambda: live, accuracy=None)
    for tensors in live.kinds().values():
        for tensor in tensors.values():
            tensor.zero_()
    checkpointer.close()
    assert_same(make().restore(), state_at(5))


def test_safetensors_alone_reads_the_weights(make: Make, storage: Storage) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 5)
    weights: dict[str, torch.Tensor] = {}
    for file in storage.files("step-000000005"):
        if file.startswith("model-"):
            weights |= load_safetensors(b"".join(storage.read(f"step-000000005/{file}")))
    assert torch.equal(weights["conv.weight"], state_at(5).model["conv.weight"])


@a_choice
def test_a_step_is_saved_once(make: Make, told: Told) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 5, 5)
    checkpointer.close()
    again = make()
    again.restore()
    again.save(5, lambda: pytest.fail("copied again"), accuracy=None, final=True)
    assert len(told.records) == 1


def test_damaged_ones_are_named_and_passed_over(
    make: Make, told: Told, storage: Storage, tmp_path: Path
) -> None:
    checkpointer = make(keep=9)
    checkpointer.restore()
    run_to(checkpointer, 1, 2, 3, 4)
    checkpointer.close()
    shutil.rmtree(tmp_path / "stage", ignore_errors=True)
    storage.delete(f"step-000000004/{file_of(storage, 4, 'model')}")
    name = f"step-000000003/{file_of(storage, 3, 'optimizer')}"
    raw = bytearray(b"".join(storage.read(name)))
    raw[-1] ^= 1
    storage.write(name, lambda: [raw])
    assert_same(make().restore(), state_at(2))
    passed = [note for note in told.notes if "is skipped" in note]
    assert [note.split(" ")[0] for note in passed] == ["step-000000004", "step-000000003"]
    assert "is missing" in passed[0]
    assert "SHA-256" in passed[1]


@a_choice
def test_nothing_valid_begins_anew_and_says_so(
    make: Make, told: Told, storage: Storage, tmp_path: Path
) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 1)
    checkpointer.close()
    shutil.rmtree(tmp_path / "stage", ignore_errors=True)
    storage.delete("step-000000001/MANIFEST.json")
    assert make().restore() is None
    assert any("starting at step 0" in note for note in told.notes)


@a_choice
def test_resume_never_sets_aside_and_auto_goes_on_from_the_new_line(make: Make, told: Told) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20)
    first.close()
    second = make(resume="never")
    assert second.restore() is None
    run_to(second, 5)
    second.close()
    assert_same(make().restore(), state_at(5))
    assert any("set aside" in note for note in told.notes)


@a_choice
def test_resume_at_a_step(make: Make) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20, 30)
    first.close()
    second = make(resume="20")
    assert_same(second.restore(), state_at(20))
    second.close()
    assert_same(make().restore(), state_at(20))


def test_a_step_set_aside_can_be_asked_for_and_is_replaced_when_passed(make: Make, storage: Storage) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20, 30)
    first.close()
    second = make(resume="10")
    second.restore()
    run_to(second, 20, 40)
    second.close()
    assert_same(load(storage, inspect(storage, "step-000000020")), state_at(20))
    assert [(f.step, f.set_aside) for f in survey(storage)] == [(40, False), (20, False), (10, False)]


@a_choice
def test_going_back_to_one_that_was_set_aside_takes_it_back(make: Make, storage: Storage) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20)
    first.close()
    for resume in ("10", "20"):
        again = make(resume=resume)
        assert_same(again.restore(), state_at(int(resume)))
        again.close()
    assert [(f.step, f.set_aside) for f in survey(storage)] == [(20, False), (10, False)]


@a_choice
def test_a_requeued_job_goes_on_whatever_resume_says(make: Make) -> None:
    for resume in ("never", "10"):
        checkpointer = make(resume=resume, job="77") if resume == "never" else make(resume=resume, job="78")
        checkpointer.restore()
        run_to(checkpointer, 10 if resume == "never" else 30)
        checkpointer.close()
    again = make(resume="10", job="78")
    assert_same(again.restore(), state_at(30))


@a_choice
def test_a_step_that_is_not_there(make: Make) -> None:
    first = make()
    first.restore()
    run_to(first, 10)
    first.close()
    with pytest.raises(UserError, match=r"no step 11 .* there are: 10"):
        make(resume="11").restore()


@a_choice
@pytest.mark.parametrize("suffix", ["", "/step-000000010"])
def test_another_runs_weights(make: Make, place: Place, suffix: str) -> None:
    other = make(url=f"{place.url}-other")
    other.restore()
    run_to(other, 10)
    other.close()
    tuned = make(resume=f"{place.url}-other{suffix}")
    state = tuned.restore()
    assert state is not None
    assert (state.step, dict(state.optimizer), dict(state.ema)) == (0, {}, {})
    assert torch.equal(state.model["conv.weight"], state_at(10).model["conv.weight"])
    assert state.extra["weights_from"].endswith("-other/step-000000010")
    run_to(tuned, 3)
    tuned.close()
    assert_same(make(resume=f"{place.url}-other{suffix}").restore(), state_at(3))


@a_choice
def test_another_runs_url_without_a_checkpoint(make: Make, place: Place) -> None:
    with pytest.raises(UserError, match=r"no valid checkpoint at .*nothing"):
        make(resume=f"{place.url}-nothing").restore()


def test_a_second_run_at_the_same_place_is_refused(make: Make) -> None:
    first = make(job="123")
    first.restore()
    with pytest.raises(LeaseHeldError, match=r"run 'test' on host .*, job 123, process \d+, since \d{4}-"):
        make().restore()


def test_pruning_keeps_newest_milestones_and_best(make: Make, storage: Storage) -> None:
    checkpointer = make(keep=1, keep_every_steps=3)
    checkpointer.restore()
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.2], start=1):
        run_to(checkpointer, step, accuracy=accuracy)
    checkpointer.close()
    assert [f.step for f in survey(storage)] == [5, 3, 2]
