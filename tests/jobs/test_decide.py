"""What a job does at its end, from how its processes ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dydist.jobs.attempt import Kind, Outcome, first_failure
from dydist.jobs.decide import decide, stalled


def outcome(
    node: int, kind: Kind, *, rank: int | None = None, time: float = 0, message: str = "m"
) -> Outcome:
    return Outcome(node=node, name=f"n{node + 1}", kind=kind, time=time, rank=rank, message=message)


def decided(*outcomes: Outcome, **changed: Any) -> tuple[str, int, str]:
    names = tuple(f"n{number + 1}" for number in range(len(outcomes)))
    values = {"nodes": names, "saved": [0, 5], "max_stalled": 3, "cancelled": False, "warning": None}
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


@pytest.mark.parametrize("kind", ["frozen", "killed", "hung", "port_taken"])
def test_a_killed_or_hung_process_is_started_again_on_the_same_nodes(kind: Kind) -> None:
    both = (outcome(0, "torn"), outcome(1, kind, rank=1))
    action, code, reason = decided(*both, may_restart=True)
    assert (action, code, reason) == ("restart", 75, "rank 1 on node n2: m")
    assert decided(*both)[0] == "requeue"
    assert decided(*both, may_restart=True, warning="preempted (SIGTERM)")[0] == "requeue"
    assert decided(*both, may_restart=True, nodes=("n1", "n2", "n3"))[0] == "requeue", "a node is silent"
    assert decided(*both, may_restart=True, cancelled=True)[0] == "cancel"
    stuck = (replace(both[0], gone=False), both[1])
    assert decided(*stuck, may_restart=True)[0] == "requeue", "a process did not end"


@pytest.mark.parametrize("kind", ["preflight", "stopped", "error", "launch"])
def test_what_other_nodes_or_time_may_mend_leaves_the_allocation(kind: Kind) -> None:
    assert decided(outcome(0, kind), may_restart=True)[0] == "requeue"


def test_restarts_are_bounded_by_progress() -> None:
    def actions(*saved: list[int], **more: Any) -> list[str]:
        return [decided(outcome(0, "killed"), saved=one, may_restart=True, **more)[0] for one in saved]

    assert actions([5, 5], [5, 5, 5], [5] * 4) == ["restart", "requeue", "fail"]
    assert actions([0, 5], [5, 5], [5] * 3, max_stalled=2) == ["restart", "requeue", "fail"]


def test_restarts_do_not_count_as_starts_too_short_for_the_time_limit() -> None:
    values: dict[str, Any] = {"warning": "time limit (SIGUSR2)", "total_steps": 450_000}
    stop, saved = outcome(0, "stopped"), [0, 200, 600, 700]
    assert decided(stop, saved=saved, **values)[0] == "fail"
    assert decided(stop, saved=saved, allocations=[0, 700], **values)[0] == "requeue"


def test_an_exception_comes_back_only_after_progress() -> None:
    assert decided(outcome(0, "error", rank=0), saved=[0, 5])[0] == "requeue"
    assert decided(outcome(0, "error", rank=0), saved=[5, 5])[:2] == ("fail", 1)


def test_a_lost_node_requeues_even_before_the_first_save_and_is_named() -> None:
    """Its peer fails with an error about the connection, which would be for good by itself."""
    names = ("n1", "n2")
    action, code, reason = decided(outcome(0, "error", rank=0), nodes=names, saved=[0, 0])
    assert (action, code, reason) == ("requeue", 75, "node n2: it has not reported (lost?)")
    assert decided(outcome(1, "stopped"), nodes=names)[2] == "node n1: it has not reported (lost?)"
    assert decided(outcome(0, "error"), nodes=names, saved=[0, 0, 0, 0])[0] == "fail"


EXPLAINS: dict[Kind, str] = {
    "usage": "preflight lost frozen killed hung error launch port_taken torn",
    "preflight": "lost frozen killed hung error launch port_taken torn",
    "lost": "frozen killed hung error launch port_taken torn",
    "frozen": "killed hung error launch port_taken torn",
    "killed": "hung error launch port_taken torn",
    "hung": "error launch port_taken torn",
    "error": "launch port_taken torn",
    "launch": "port_taken torn",
    "port_taken": "torn",
    "torn": "",
}
"""What a failure of one node can lead to on the other, whichever was noticed first."""
HARMLESS: tuple[Kind, ...] = ("done", "stopped")


@pytest.mark.parametrize("first", [*EXPLAINS, *HARMLESS])
@pytest.mark.parametrize("second", [*EXPLAINS, *HARMLESS])
@pytest.mark.parametrize("earlier", [0, 1])
def test_the_cause_of_every_two_endings(first: Kind, second: Kind, earlier: int) -> None:
    """Of a pair of failures the one that explains the other is the reason, on whichever node it was."""
    kinds = (first, second)
    reported = [
        outcome(node, kind, time=node != earlier, message=f"{kind} happened")
        for node, kind in enumerate(kinds)
        if kind != "lost"
    ]
    action, _, reason = decided(*reported, nodes=("n1", "n2"), saved=[0, 0])
    if first in HARMLESS and second in HARMLESS:
        assert action == ("finish" if first == second == "done" else "requeue")
        return
    failed = [node for node in (0, 1) if kinds[node] in EXPLAINS]
    cause = max(failed, key=lambda node: (len(EXPLAINS[kinds[node]].split()), node == earlier))
    what = "it has not reported" if kinds[cause] == "lost" else f"{kinds[cause]} happened"
    assert what in reason
    if kinds[cause] not in ("usage", "preflight") and not first == second == "lost":
        assert reason.startswith(f"node n{cause + 1}: ")
    assert action == ("fail" if kinds[cause] in ("usage", "error", "launch") else "requeue")


def test_a_cancel_ends_whatever_is_not_done() -> None:
    kinds: tuple[Kind, ...] = ("stopped", "killed", "error", "lost", "hung", "torn", "launch")
    for kind in kinds:
        reported = [] if kind == "lost" else [outcome(0, kind)]
        assert decided(*reported, nodes=("n1",), cancelled=True)[0] == "cancel"
    assert decided(outcome(0, "done"), cancelled=True)[0] == "finish"
    assert decided(outcome(0, "usage"), cancelled=True)[0] == "fail"


def test_progress_too_slow_for_the_time_limit_is_bounded() -> None:
    """A step a start, of ten thousand: it would come back for years."""
    values: dict[str, Any] = {"warning": "time limit (SIGUSR2)", "total_steps": 10_000}
    action, code, reason = decided(outcome(0, "stopped"), saved=[0, 1, 2, 3], **values)
    assert (action, code) == ("fail", 1)
    assert "saved fewer than 10 steps each" in reason
    assert decided(outcome(0, "stopped"), saved=[0, 1, 2, 12], **values)[0] == "requeue"
    preempted = {**values, "warning": "preempted (SIGTERM)"}
    assert decided(outcome(0, "stopped"), saved=[0, 1, 2, 3], **preempted)[0] == "requeue"


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
