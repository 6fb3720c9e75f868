"""A run that saves every few steps is killed with SIGKILL, at random moments and at every file boundary.

Each time the next start goes on from the newest committed step with the right bits, and the end is bit-equal to the
uninterrupted run's.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.checkpoint_places import FOREIGN_SERVERS, OTHER_SERVERS, place_on
from helpers.killing_driver import Plan
from helpers.killing_zygote import Zygote

KILLS = {"file": 80, "memory": 80, "s3": 20, "sftp": 20}
"""Together 200; a start over a server takes longer."""
FEW = {"file": 20, "s3": 5}
"""What the ordinary suite has of them."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


def log(folder: Path) -> list[dict[str, Any]]:
    """What the runs in a folder told."""
    path = folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told(folder: Path, kind: str) -> list[Any]:
    return [line[kind] for line in log(folder) if kind in line]


def committed(folder: Path) -> int:
    return max([line["committed"] for line in log(folder) if line.get("error", "") is None], default=0)


def assert_finished_right(folder: Path) -> None:
    assert set(told(folder, "finished")) == {True}, "the end is not bit-equal to the uninterrupted run's"


def assert_restores_right(folder: Path) -> None:
    assert all(told(folder, "right")), "a start went on from wrong bits"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "least"),
    [*FEW.items(), *(pytest.param(*each, marks=pytest.mark.long) for each in KILLS.items())],
)
def test_random_kills(
    store: str, least: int, request: pytest.FixtureRequest, tmp_path: Path, zygote: Zygote
) -> None:
    """Killed so many times, and until runs were gone on with from four different steps, two where there are few."""
    moments = random.Random(f"{store} 1")
    kills, run, longest, survived = 0, 0, 0.3, []
    different = 4 if least >= 20 else 2
    while kills < least or len(set(survived)) < different:
        folder = tmp_path / f"run{run}"
        folder.mkdir()
        place = place_on(store, request)
        # Against a server a save takes longer than all of this training: there each is waited for.
        slow: dict[str, Any] = {"steps": 15, "wait": True} if store in ("s3", "sftp") else {}
        plan = Plan(url=place.url, options=place.options, folder=str(folder), **slow)
        run += 1
        died = True
        while died:
            before, starts = committed(folder), len(told(folder, "restored"))
            process = zygote.start(plan)
            process.join(moments.uniform(0, longest))
            process.kill()
            process.join()
            died = process.exitcode == -signal.SIGKILL
            kills += died
            assert died or process.exitcode == 0, told(folder, "note")
            restored = told(folder, "restored")
            if len(restored) > starts:
                assert restored[-1] >= before, f"step {before} was committed, and {restored[-1]} was restored"
                survived.append(restored[-1])
            # Machines differ: the moments are spread over as long as a start takes here and now.
            longest *= (1.2 if committed(folder) == before else 1.0) if died else 0.8
        assert_restores_right(folder)
        assert_finished_right(folder)
        shutil.rmtree(folder)
    print(f"\n{store}: {kills} kills in {run} runs, gone on from steps {sorted(set(survived))}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "saves"),
    [
        ("file", 2),
        *(
            pytest.param(store, 3, marks=pytest.mark.long)
            for store in ("file", "memory", "s3", "sftp", *OTHER_SERVERS, *FOREIGN_SERVERS)
        ),
    ],
)
def test_a_kill_at_every_file_boundary(
    store: str, saves: int, request: pytest.FixtureRequest, tmp_path: Path, zygote: Zygote
) -> None:
    """Dies before the 1st, 2nd, … operation on the store until it runs through; each is followed by a whole run."""
    kill_at = 0
    while True:
        kill_at += 1
        folder = tmp_path / f"kill{kill_at}"
        folder.mkdir()
        place = place_on(store, request)
        plan = Plan(url=place.url, options=place.options, folder=str(folder), steps=saves, every=1, wait=True)
        process = zygote.start(replace(plan, kill_at=kill_at))
        process.join(300)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, told(folder, "note")
        before = committed(folder)
        again = zygote.start(plan)
        again.join(300)
        assert again.exitcode == 0
        assert told(folder, "restored")[-1] >= before
        assert_restores_right(folder)
        assert_finished_right(folder)
    print(f"\n{store}: killed at each of {kill_at - 1} boundaries")
    assert kill_at > 15, "the run was too short to tell"
