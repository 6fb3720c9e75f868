"""A run's view of checkpoints, on the local disk and one process: save, restore, choose, refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dydist.checkpoint import Checkpointer, LeaseHeldError, TrainingState, open_storage, survey
from dydist.config import CheckpointConfig
from dydist.errors import UserError
from dydist.records import CheckpointRecord

Make = Callable[..., Checkpointer]


class Told:
    """What a run was told."""

    def __init__(self) -> None:
        self.records: list[CheckpointRecord] = []
        self.notes: list[str] = []


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def make(tmp_path: Path, told: Told) -> Any:
    """Makes a run's checkpointer; closes it at the end."""
    made = []

    def build(*, job: str = "", url: str | None = None, **config: Any) -> Checkpointer:
        made.append(
            Checkpointer(
                CheckpointConfig(**config),
                url=url or str(tmp_path / "place"),
                run_name="test",
                rank=0,
                world_size=1,
                broadcast=lambda value: value,
                gather=lambda value: [value],
                on_record=told.records.append,
                on_note=told.notes.append,
                job=job,
                lease_interval_s=0.05,
                lease_timeout_s=0.2,
            )
        )
        return made[-1]

    yield build
    for checkpointer in made:
        checkpointer.close()


def state_at(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    weights = {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.num_batches_tracked": torch.tensor(step),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "empty": torch.empty(0),
        "flag": torch.tensor([True, False]),
    }
    return TrainingState(
        step=step,
        model=weights,
        optimizer={"momentum.conv.weight": torch.randn(4, 3, 3, 3, generator=generator)},
        ema={"conv.weight": torch.randn(4, 3, 3, 3, generator=generator)},
        extra={"seed": 7, "config": {"run": {"name": "test"}}},
    )


def assert_same(found: TrainingState | None, expected: TrainingState) -> None:
    assert found is not None
    assert found.step == expected.step
    for kind, tensors in expected.kinds().items():
        there = found.kinds()[kind]
        assert there.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert there[name].dtype == tensor.dtype
            assert torch.equal(there[name], tensor), f"{kind} {name}"
    assert {**found.extra, **expected.extra} == dict(found.extra)


def run_to(checkpointer: Checkpointer, *steps: int, accuracy: float | None = None) -> None:
    """Save steps, each waited for."""
    for step in steps:
        checkpointer.save(step, lambda step=step: state_at(step), accuracy=accuracy, final=True)


def test_what_was_saved_comes_back(make: Make, told: Told, tmp_path: Path) -> None:
    first = make()
    assert first.restore() is None
    run_to(first, 3, 12, accuracy=0.5)
    first.close()
    second = make()
    assert_same(second.restore(), state_at(12))
    second.close()
    assert [(r.step, r.error) for r in told.records] == [(3, None), (12, None)]
    assert told.records[-1].bytes > 0
    assert not [name for name in (tmp_path / "place").iterdir() if not name.name.startswith("step-")]


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


def test_safetensors_alone_reads_the_weights(make: Make, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 5)
    weights: dict[str, torch.Tensor] = {}
    for file in sorted((tmp_path / "place" / "step-000000005").glob("model-*.safetensors")):
        weights |= load_file(file)
    assert torch.equal(weights["conv.weight"], state_at(5).model["conv.weight"])


def test_a_step_is_saved_once(make: Make, told: Told) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 5, 5)
    checkpointer.close()
    again = make()
    again.restore()
    again.save(5, lambda: pytest.fail("copied again"), accuracy=None, final=True)
    assert len(told.records) == 1


def test_damaged_ones_are_named_and_passed_over(make: Make, told: Told, tmp_path: Path) -> None:
    checkpointer = make(keep=9)
    checkpointer.restore()
    run_to(checkpointer, 1, 2, 3, 4)
    checkpointer.close()
    place = tmp_path / "place"
    next((place / "step-000000004").glob("model-*")).unlink()
    file = next((place / "step-000000003").glob("optimizer-*"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert_same(make().restore(), state_at(2))
    assert [note.split(" ")[0] for note in told.notes] == ["step-000000004", "step-000000003"]
    assert "is missing" in told.notes[0]
    assert "SHA-256" in told.notes[1]


def test_nothing_valid_begins_anew_and_says_so(make: Make, told: Told, tmp_path: Path) -> None:
    checkpointer = make()
    checkpointer.restore()
    run_to(checkpointer, 1)
    checkpointer.close()
    (tmp_path / "place" / "step-000000001" / "MANIFEST.json").unlink()
    assert make().restore() is None
    assert "beginning at step 0" in told.notes[-1]


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
    assert "set aside" in told.notes[0]


def test_resume_at_a_step(make: Make) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20, 30)
    first.close()
    second = make(resume="20")
    assert_same(second.restore(), state_at(20))
    second.close()
    assert_same(make().restore(), state_at(20))


def test_a_step_set_aside_can_be_asked_for_and_is_replaced_when_passed(make: Make, tmp_path: Path) -> None:
    first = make()
    first.restore()
    run_to(first, 10, 20, 30)
    first.close()
    second = make(resume="10")
    second.restore()
    run_to(second, 20, 40)
    second.close()
    place = open_storage(str(tmp_path / "place"))
    assert [(f.step, f.set_aside) for f in survey(place)] == [(40, False), (20, False), (10, False)]


def test_a_requeued_job_goes_on_whatever_resume_says(make: Make) -> None:
    for resume in ("never", "10"):
        checkpointer = make(resume=resume, job="77") if resume == "never" else make(resume=resume, job="78")
        checkpointer.restore()
        run_to(checkpointer, 10 if resume == "never" else 30)
        checkpointer.close()
    again = make(resume="10", job="78")
    assert_same(again.restore(), state_at(30))


def test_a_step_that_is_not_there(make: Make) -> None:
    first = make()
    first.restore()
    run_to(first, 10)
    first.close()
    with pytest.raises(UserError, match=r"no step 11 .* there are: 10"):
        make(resume="11").restore()


@pytest.mark.parametrize("suffix", ["", "/step-000000010"])
def test_another_runs_weights(make: Make, tmp_path: Path, suffix: str) -> None:
    other = make(url=str(tmp_path / "other"))
    other.restore()
    run_to(other, 10)
    other.close()
    tuned = make(resume=str(tmp_path / "other") + suffix)
    state = tuned.restore()
    assert state is not None
    assert (state.step, dict(state.optimizer), dict(state.ema)) == (0, {}, {})
    assert torch.equal(state.model["conv.weight"], state_at(10).model["conv.weight"])
    assert state.extra["weights_from"].endswith("other/step-000000010")
    run_to(tuned, 3)
    tuned.close()
    assert_same(make(resume=str(tmp_path / "other") + suffix).restore(), state_at(3))


def test_another_runs_url_without_a_checkpoint(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no valid checkpoint at .*nothing"):
        make(resume=str(tmp_path / "nothing")).restore()


def test_a_second_run_at_the_same_place_is_refused(make: Make) -> None:
    first = make(job="123")
    first.restore()
    with pytest.raises(LeaseHeldError, match=r"run 'test' on host .*, job 123, process \d+, since \d{4}-"):
        make().restore()


def test_pruning_keeps_newest_milestones_and_best(make: Make, tmp_path: Path) -> None:
    checkpointer = make(keep=2, keep_every_steps=4)
    checkpointer.restore()
    for step, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.2], start=1):
        run_to(checkpointer, step, accuracy=accuracy)
    checkpointer.close()
    assert [f.step for f in survey(open_storage(str(tmp_path / "place")))] == [9, 8, 4, 2]
