"""A real S3 server behind a proxy that breaks things on the wire: training goes on, and all of it is told."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dydist.checkpoint import TrainingState, open_storage, survey, verify
from helpers.checkpoint_places import Place, place_on
from helpers.checkpoint_states import assert_same, state_at
from helpers.checkpoint_world import World
from helpers.faulty_proxy import FaultyProxy, faulty_proxy
from helpers.support import REPOSITORY, Run, metrics, train

IMPATIENT = {"read_timeout": 1, "connect_timeout": 1, "retries": {"max_attempts": 1}}
LIMIT_S = 300.0


@pytest.fixture
def proxy(s3_server: dict[str, Any]) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server["endpoint_url"]) as proxy:
        yield proxy


@pytest.fixture
def direct(request: pytest.FixtureRequest) -> Place:
    """The place without the proxy."""
    return place_on("s3", request)


@pytest.fixture
def place(direct: Place, proxy: FaultyProxy) -> Place:
    """The same place through the proxy."""
    return Place(direct.url, {**direct.options, "endpoint_url": proxy.endpoint, "config_kwargs": IMPATIENT})


class Watched:
    """A run that is looked at from outside, as people do: its files and its screen."""

    def __init__(self, run: Run, run_dir: Path) -> None:
        self.run = run
        self.run_dir = run_dir

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.run_dir / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [
            event for line in lines if line.endswith("\n") and (event := json.loads(line))["kind"] == kind
        ]

    def status(self) -> dict[str, Any]:
        path = self.run_dir / "status.json"
        return json.loads(path.read_text()) if path.exists() else {"step": None, "alerts": []}

    def step(self) -> int:
        return self.status()["step"] or 0

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        """Wait until something shows; the run must be alive all the time."""
        deadline = time.monotonic() + LIMIT_S
        while not (result := found()):
            assert self.run.processes[0].is_alive(), f"the run ended before {what}\n{self.run.text()}"
            assert time.monotonic() < deadline, f"never saw {what}\n{self.run.text()}"
            time.sleep(0.02)
        return result

    def saved_after(self, step: int) -> None:
        """Wait for a commit of a later step, in status.json too."""

        def committed() -> bool:
            last = self.status()["last_checkpoint"]
            return bool(last) and last["error"] is None and last["step"] > step

        self.until(f"a commit after step {step}", committed)

    def failed_after(self, step: int, pattern: str) -> None:
        """Wait for the failure of the save of a later step, in status.json too."""

        def failed() -> bool:
            last = self.status()["last_checkpoint"]
            return bool(last) and last["step"] > step and re.search(pattern, last["error"] or "") is not None

        self.until(f"a failed save after step {step} that says {pattern}", failed)


def flags(runs: Path, place: Place, *more: object) -> list[object]:
    """A network of a few thousand weights on digits, saved every four steps."""
    values = {
        "run.dir": runs, "run.name": "run", "train.epochs": 500, "temperature.epochs": 1, "train.batch_size": 16,
        "model.width": 0.03125, "monitor.every_steps": 1, "train.eval_every_epochs": 500,
        "checkpoint.every_steps": 4, "checkpoint.url": place.url, "checkpoint.stage_dir": runs / "stage",
        "checkpoint.storage_options": json.dumps(place.options),
    }  # fmt: skip
    recipe = REPOSITORY / "launch/recipes/quickstart.yaml"
    return [
        "--config",
        recipe,
        *(part for name, value in values.items() for part in (f"--{name}", value)),
        *more,
    ]


@pytest.mark.long  # a minute and more: it waits for each fault's outcome
def test_a_real_run_outlives_whatever_its_store_does(
    direct: Place, place: Place, proxy: FaultyProxy, tmp_path: Path
) -> None:
    run = Run(flags(tmp_path, place, "--checkpoint.deadline_s", 4), 1, tmp_path / "logs" / "run")
    watched = Watched(run, tmp_path / "run")
    watched.until("the first step", lambda: watched.step() > 0)
    watched.saved_after(0)
    lasting = {
        "half": "bytes in the store after",
        "hanging": r"(?i)time",
        "dropped": "(?i)connect|disconnect|reset",
    }
    for fault in ("unavailable", "throttled", "reordered", "half", "hanging", "dropped", "slow", "spoilt"):
        passing = fault in ("unavailable", "throttled")
        step, turns = watched.step(), proxy.seen[fault]
        proxy.set(fault, every=4 if passing else 1)
        if fault in lasting:
            watched.failed_after(step, lasting[fault])
        elif fault == "slow":  # committed, or out of time: told either way
            watched.until("an outcome", lambda step=step: watched.events("checkpoint")[-1]["step"] > step)
        elif fault == "spoilt":
            watched.until(
                "a warning that bytes do not come back",
                lambda: [a for a in watched.status()["alerts"] if "do not come back" in a["text"]],
            )
        else:
            watched.saved_after(step)
        assert proxy.seen[fault] > turns, f"nothing met {fault}"
        assert watched.step() >= step + 4, f"training stood still while the store was {fault}"

    proxy.set("none")
    watched.saved_after(watched.step())
    proxy.set("dropped")
    watched.failed_after(watched.step(), lasting["dropped"])
    os.kill(run.processes[0].pid or 0, signal.SIGTERM)
    assert run.wait() == [1], run.text()
    screen, last = run.text(), watched.events("end")[-1]
    assert re.search(
        r"was not saved at s3://.*there is a complete local copy: .*step-\d{9} on host", screen
    ), screen
    assert (watched.status()["state"], watched.status()["step"]) == ("failed", last["step"])
    assert "complete local copy" in watched.status()["message"]
    outcomes = watched.events("checkpoint")
    for outcome in outcomes:  # every one is on the screen
        said = "saved step {step}:" if outcome["error"] is None else "saving step {step} to s3://"
        assert said.format(step=outcome["step"]) in screen
    assert "keeps failing" in screen
    assert max(outcome["pause_s"] for outcome in outcomes) < 2
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 4
    for raw in (screen.encode(), *written):  # TensorBoard's files too
        assert b"s3-secret-key" not in raw

    proxy.set("none")
    more = flags(tmp_path, place, "--train.max_steps", last["step"] + 3)
    text = train(more, 1, tmp_path / "logs" / "again")
    assert f"going on from step {last['step']} of" in text
    storage = open_storage(direct.url, direct.options)
    newest = survey(storage)[0]
    assert newest.step == last["step"] + 3
    verify(storage, newest)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, newest.step + 1))


def test_a_slow_store_costs_no_memory(place: Place, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Saves come much faster than 100 kB/s: what is kept in memory is two copies at most and what is on its way."""
    size = 24 << 20
    weights = {"w": torch.zeros(size, dtype=torch.uint8)}
    world = World(1, place, tmp_path)
    checkpointer = world.checkpointer(0, deadline_s=30)
    checkpointer.restore()
    checkpointer.save(1, lambda: TrainingState(step=1, model=weights), accuracy=None, final=True)
    proxy.set("slow")
    process, peak = psutil.Process(), 0
    before = process.memory_info().rss
    for step in range(2, 30):
        checkpointer.save(step, lambda step=step: TrainingState(step=step, model=weights), accuracy=None)
        peak = max(peak, process.memory_info().rss - before)
    proxy.set("none")
    checkpointer.close(0)
    assert peak < 3.5 * size, f"memory grew by {peak >> 20} MiB for a state of {size >> 20} MiB"
    assert any("replaced by newer ones" in note for note in world.notes)


def test_spoilt_reads_are_noticed_and_the_right_bytes_taken_the_second_time(
    place: Place, proxy: FaultyProxy, tmp_path: Path
) -> None:
    world = World(1, place, tmp_path / "first")
    first = world.checkpointer(0)
    first.restore()
    for step in (3, 5):
        first.save(step, lambda step=step: state_at(step), accuracy=None, final=True)
    first.close()
    proxy.set("spoilt once")
    again = World(1, place, tmp_path / "second").checkpointer(0)
    assert_same(again.restore(), state_at(5))
    again.close()
    assert len(proxy.read) > 1
