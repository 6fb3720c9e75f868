"""What a job does at its end, from how its processes ended."""

from __future__ import annotations

from typing import Any

import pytest

from dydist.jobs.attempt import Kind, Outcome, first_failure
from dydist.jobs.decide import decide, stalled


def outcome(
    node: int, kind: Kind, *, rank: int | None = None, time: float = 0, message: str = "m"
) -> Outcome:
    return Outcome(node=node, name=f"n{node + 1}", kind=kind, time=time, rank=rank, message=message)


def decided(*outcomes: Outcome, **changed: Any) -> tuple[str, int, str]:
    values = {"nodes": len(outcomes), "saved": [0, 5], "max_stalled": 3, "cancelled": False, "warning": None}
    found = decide(outcomes, **{**values, **changed})
    return found.action, found.code, found.reason


def test_done_everywhere_finishes() -> None:
    assert decided(outcome(0, "done"), outcome(1, "done")) == ("finish", 0, "done")


def test_a_stop_requeues_and_says_why() -> None:
    action, code, reason = decided(
        outcome(0, "stopped"), outcome(1, "stopped"), warning="time limit (SIGUSR2)"
    )
    assert (action, code) == ("requeue", 75)
    assert reason == "stopped and saved: time limit (SIGUSR2)"


def test_a_stop_after_cancel_does_not_come_back() -> None:
    assert decided(outcome(0, "stopped"), cancelled=True)[0] == "cancel"


def test_a_users_mistake_is_for_good() -> None:
    action, code, reason = decided(
        outcome(0, "torn"), outcome(1, "usage", message="data.root: missing"), saved=[0, 0]
    )
    assert (action, code, reason) == ("fail", 2, "data.root: missing")


def test_a_killed_process_requeues_while_something_was_saved() -> None:
    assert decided(outcome(0, "killed", rank=3))[:2] == ("requeue", 75)


def test_a_kill_before_the_first_save_requeues_and_is_bounded() -> None:
    assert decided(outcome(0, "killed"), saved=[0, 0])[0] == "requeue"
    action, code, reason = decided(outcome(0, "killed"), saved=[0, 0, 0, 0])
    assert (action, code) == ("fail", 1)
    assert reason.startswith("gave up after 3 starts in a row that saved nothing new")


def test_an_exception_comes_back_only_after_progress() -> None:
    assert decided(outcome(0, "error", rank=0), saved=[0, 5])[0] == "requeue"
    assert decided(outcome(0, "error", rank=0), saved=[5, 5])[:2] == ("fail", 1)


def test_a_lost_node_requeues() -> None:
    action, _, reason = decided(outcome(1, "torn"), nodes=2)
    assert action == "requeue"
    assert "node n2" in reason
    assert "1 of 2 nodes ended without a word" in decided(outcome(1, "stopped"), nodes=2)[2]


@pytest.mark.parametrize(
    ("saved", "count"),
    [([0], 0), ([0, 5], 0), ([0, 0], 1), ([0, 5, 5, 5], 2), ([0, 0, 5], 0), ([5, 3], 1)],
)
def test_stalled_counts_the_last_starts_in_a_row(saved: list[int], count: int) -> None:
    assert stalled(saved) == count


def test_the_likeliest_cause_is_the_one_that_led_to_the_others() -> None:
    collective = outcome(0, "error", rank=0, time=1)
    killed = outcome(1, "killed", rank=3, time=2)
    assert first_failure([collective, killed, outcome(2, "torn")]) == killed
    assert first_failure([outcome(0, "error", time=2), outcome(1, "error", time=1)]) == outcome(
        1, "error", time=1
    )
    assert first_failure([outcome(0, "done"), outcome(1, "stopped")]) is None
