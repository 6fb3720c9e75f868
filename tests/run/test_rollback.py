"""Which checkpoint a run that diverged is told to go back to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.run.rollback import advice, find_rise, last_good, rollback_advice


@pytest.mark.parametrize(
    ("losses", "calm", "wild"),
    [
        ([2.3, 2.1, 1.5, 5.6e11], 2, 3),
        ([2.3, 2.1, 1.5, 3.0, 9.0, 80.0, math.inf], 3, 4),
        ([2.3, 2.4, 2.5, 2.2], 3, None),
        ([2.3, 0.01, 0.3, 0.02], 3, None),  # a hard batch
        ([2.3, 2.0, 60.0, 1.0, 0.9], 4, None),  # it came down again
        ([5.6e11, 5.7e11], None, 0),  # already wild where what is known of it begins
        ([2.3, math.nan], 0, 1),
        ([], None, None),
    ],
)
def test_where_a_loss_was_last_in_order(losses: list[float], calm: int | None, wild: int | None) -> None:
    assert find_rise(list(enumerate(losses))) == (calm, wild)


@given(
    calm=st.lists(st.floats(0.1, 2.3), min_size=1, max_size=30),
    wild=st.lists(st.floats(60, 1e30) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=30),
    every=st.integers(1, 7),
)
def test_no_checkpoint_is_named_that_was_saved_after_the_loss_rose(
    calm: list[float], wild: list[float], every: int
) -> None:
    losses = list(enumerate([2.3, *calm, *wild]))
    held = [step for step, _ in losses if step % every == 0]
    good, last = last_good(held, losses)
    assert last == len(calm)
    assert good == max(step for step in held if step <= len(calm))


def test_the_test_split_s_loss_counts_too() -> None:
    training = [(0, 2.3), (20, 0.5)]
    assert last_good([22, 44], training, [(22, 1.0), (44, 700.0)]) == (22, 22)
    assert last_good([22, 44], training, [(22, 1.0), (44, 1.1)]) == (44, 44)


def test_a_logged_loss_is_that_of_the_weights_before_its_step(tmp_path: Path) -> None:
    losses = {1: 2.3, 2: 2.0, 3: 1.9, 4: 5.6e11, 5: None}
    lines = [{"kind": "step", "step": step, "loss": loss} for step, loss in losses.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    told = rollback_advice(tmp_path, [1, 2, 3], [(6, math.nan)])
    assert told == (
        "The loss was last normal at step 2, before the checkpoint of step 3: go back to step 2 with "
        "--checkpoint.resume=2"
    )


def test_what_to_do_where_nothing_or_everything_is_good() -> None:
    assert "next start begins at step 0" in advice([], None, 0)
    assert "step 6, is from before that: the next start goes on from it" in advice([3, 6], 6, 6)
    assert "the checkpoints of step 3, 6, and no earlier one is kept: start over" in advice([6, 3], None, 2)
