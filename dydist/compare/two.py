"""Compares two run folders: the first step that differs, by how much, and whether the final weights are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydist.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dydist.checkpoint import TrainingState

COMPARED = ("data_hash", "loss", "accuracy", "lr", "temperature", "grad_norm")
"""The values of a logged step that are compared. Times and speeds always differ."""


@dataclass(frozen=True)
class FirstDifference:
    """The first logged step at which two runs differ, and the values of both runs that differ."""

    step: int
    values: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs. `weights_equal` is None if they have no checkpoint of a common step.

    `largest_weight_difference` is None also if tensors differ in name or shape.
    """

    steps_compared: int
    first_difference: FirstDifference | None
    largest_loss_difference: float
    checkpoint_step: int | None
    weights_equal: bool | None
    first_different_tensor: str | None
    largest_weight_difference: float | None
    fingerprints: tuple[str, str] | None

    @property
    def equal(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return self.first_difference is None and self.weights_equal is True


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two run folders: every logged step that both have, and the newest checkpoint of a common step.

    Raises UserError if one is not a run folder.
    """
    lines_a, lines_b = step_lines(first), step_lines(second)
    common = sorted(lines_a.keys() & lines_b.keys())
    first_differing = None
    largest = 0.0
    for step in common:
        a, b = lines_a[step], lines_b[step]
        if "loss" in a and "loss" in b:
            largest = max(largest, abs(a["loss"] - b["loss"]))
        if first_differing is None:
            names = [name for name in COMPARED if name in a and name in b and a[name] != b[name]]
            if names:
                first_differing = FirstDifference(step, {name: (a[name], b[name]) for name in names})
    states = newest_common(first, second)
    if states is None:
        return Comparison(len(common), first_differing, largest, None, None, None, None, None)
    name, difference = first_difference(*(all_tensors(state) for state in states))
    marks = (fingerprint(states[0]), fingerprint(states[1]))
    return Comparison(
        len(common), first_differing, largest, states[0].step, marks[0] == marks[1], name, difference, marks
    )


def step_lines(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The logged steps of a run, by step."""
    from dydist.monitor.outputs.jsonlines import read_lines

    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise UserError(
            f"{run_dir}: there is no metrics.jsonl in it; give the folder of a run, such as runs/quickstart"
        )
    return {line["step"]: line for line in read_lines(path) if line.get("kind") == "step"}


def newest_common(first: Path, second: Path) -> tuple[TrainingState, TrainingState] | None:
    """The states of the highest step at which both runs have a valid checkpoint."""
    from dydist.checkpoint import load, open_storage, survey
    from dydist.named_run import checkpoint_place

    places = [open_storage(*checkpoint_place(run)) for run in (first, second)]
    found = [{item.step: item for item in survey(place) if item.problem is None} for place in places]
    common = found[0].keys() & found[1].keys()
    if not common:
        return None
    step = max(common)
    return load(places[0], found[0][step]), load(places[1], found[1][step])


def all_tensors(state: TrainingState) -> dict[str, Tensor]:
    """All tensors of a state in one dictionary."""
    averaged = {f"ema.{name}": tensor for name, tensor in state.ema.items()}
    return {**state.model, **state.optimizer, **averaged}


def fingerprint(state: TrainingState) -> str:
    """SHA-256 over the step and every tensor's name, type, shape and bytes, in order of name."""
    digest = hashlib.sha256(f"step {state.step}\n".encode())
    for name, tensor in sorted(all_tensors(state).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(bits_of(tensor))
    return digest.hexdigest()


def first_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[str | None, float | None]:
    """The first tensor that differs (in `a`'s order), and the largest absolute difference over all of them.

    The difference is None if a tensor's shape differs, or if one of the two lacks it.
    """
    first: str | None = None
    largest = 0.0
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            return first or name, None
        if bits_of(a[name]) != bits_of(b[name]):
            first = first or name
            largest = max(largest, float((a[name].double() - b[name].double()).abs().max()))
    return first, largest


def bits_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, in C order."""
    import torch

    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
