"""Names of jobs on the command line: several elements of an array as squeue prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dydist.errors import UserError
from dydist.jobs.submission.registry import find, remember


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Array 42 with ten elements, a job of its own, and another array."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, job in enumerate([*(f"42_{task}" for task in range(10)), "43", "420_1"]):
        remember({"job": job, "name": f"run{job}", "run_dir": str(tmp_path / job), "submitted": number})


@pytest.mark.parametrize(
    ("what", "tasks"),
    [
        ("42_[0,2]", [0, 2]),
        ("42_[0-2,5%2]", [0, 1, 2, 5]),
        ("42_[1]", [1]),
        ("42_[1-7:3]", [1, 4, 7]),
        ("42_[0-6:2,9%2]", [0, 2, 4, 6, 9]),
        ("42_[8-99]", [8, 9]),
    ],
)
def test_elements_of_an_array(what: str, tasks: list[int]) -> None:
    assert [one["job"] for one in find(what)] == [f"42_{task}" for task in tasks]


@pytest.mark.parametrize(
    "what", ["42_[]", "42_[20]", "42_[a]", "41_[0,2]", "42_[0-9:0]", "42_[0,2", "43_[0]", "42_[0,,2]"]
)
def test_what_names_no_element(what: str) -> None:
    with pytest.raises(UserError, match="is no job"):
        find(what)


def test_a_list_that_ends_wrongly_is_told_at_once() -> None:
    what = "42_[" + ",".join(map(str, range(1000, 1040, 2))) + ",…]"
    with pytest.raises(UserError, match="is no job"):
        find(what)
