"""What is sent to a tracker: each step that a checkpoint covers, once, whatever fails and however a run resumes."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary

from dydist.config.trackers import tracker_problem
from dydist.monitor.outputs.eventlog import EventLog
from dydist.monitor.trackers.child import make, obey
from dydist.monitor.trackers.events import StepReader
from dydist.monitor.trackers.protocol import TrackedRun
from dydist.monitor.trackers.record import read_record
from dydist.monitor.trackers.sender import Sender
from helpers.trackers import install_lines_tracker


class Server:
    """A tracker's server: appends, and cannot remove. Fails once at each step of `failing`, after it took effect."""

    def __init__(self, *, tells: bool = True) -> None:
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.replaced: list[str | None] = []
        self.ends: list[str] = []
        self.failing: list[int] = []
        self.refused_ends = 0
        self.tells = tells


class Client:
    place = "server://user:a-secret@host"

    def __init__(self, server: Server) -> None:
        self._server = server

    def start(self, run: TrackedRun) -> int | None:
        self._server.replaced.append(run.replaces)
        self._rows = self._server.runs.setdefault(run.id, [])
        if not self._server.tells:
            return run.sent
        return self._rows[-1][0] if self._rows else None

    def log(self, step: int, time: float, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        self._rows.append((step, dict(scalars)))
        if step in self._server.failing:
            self._server.failing.remove(step)
            raise ConnectionError("the answer was lost")

    def finish(self, state: str) -> None:
        if self._server.refused_ends:
            self._server.refused_ends -= 1
            raise ConnectionError("refused")
        self._server.ends.append(state)


def log(folder: Path, start: int, last: int, life: int = 0) -> None:
    """One start of a run, from step `start`, that logs until `last`."""
    file = EventLog(folder, purge_step=start + 1, now=lambda: 1_000.0)
    for step in range(start + 1, last + 1):
        file.add(Summary(value=[Summary.Value(tag="loss", simple_value=life)]), step)


def sender(folder: Path, server: Server, said: list[str], resumed: int = 0) -> Sender:
    return Sender(
        lambda: Client(server),
        name="test",
        run=TrackedRun(id="", name="run", folder=folder, config={}),
        events=folder,
        resumed=resumed,
        tell=lambda text, level: said.append(f"{level}: {text}"),
    )


def steps(server: Server) -> list[list[int]]:
    return [[step for step, _ in rows] for rows in server.runs.values()]


@given(
    starts=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5),
    cut=st.integers(0, 9),
)
def test_the_log_is_read_as_tensorboard_reads_it(
    starts: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    for life, (start, more) in enumerate(starts):
        log(folder, start, start + more, life)
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    shown = {e.step: e.value for e in reader.Scalars("loss")} if reader.Tags()["scalars"] else {}
    ours = StepReader(folder)
    found = [*ours.read(-1, cut), *ours.read(cut, 99)]  # in two parts, as checkpoints come
    assert [(step.step, step.scalars["loss"]) for step in found] == sorted(shown.items())


def test_only_what_a_checkpoint_covers_is_sent(tmp_path: Path) -> None:
    server, said = Server(), []
    log(tmp_path, 0, 9)
    one = sender(tmp_path, server, said)
    for covered in (4, 4, 8):
        one.send(covered)
        assert steps(server) == [list(range(1, covered + 1))]
    log(tmp_path, 8, 12, life=1)  # killed at 9; resumes at 8
    sender(tmp_path, server, said, resumed=8).send(12)
    assert [(step, row["loss"]) for step, row in next(iter(server.runs.values()))][7:10] == [
        (8, 0),
        (9, 1),
        (10, 1),
    ]
    assert steps(server) == [list(range(1, 13))]


@pytest.mark.parametrize("tells", [True, False])
def test_an_answer_that_is_lost_repeats_at_most_that_step(tells: bool, tmp_path: Path) -> None:
    server, said = Server(tells=tells), []
    server.failing = [3]
    log(tmp_path, 0, 5)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for order in ({"covered": 4}, {"covered": 5}):
        orders.put(order)
    one = sender(tmp_path, server, said)
    with pytest.raises(ConnectionError):
        one.send(4)
    one.give_up()
    orders.put({"close": "done"})
    obey(one, orders, lambda text, level: said.append(f"{level}: {text}"))
    assert steps(server) == [[1, 2, 3, 4, 5] if tells else [1, 2, 3, 3, 4, 5]]
    assert server.ends == ["done"]
    assert read_record(tmp_path, "test")["finished"] == "done"


def test_an_error_is_told_once_and_the_tracker_gets_everything_later(tmp_path: Path) -> None:
    server, said = Server(), []
    log(tmp_path, 0, 3)
    server.failing = [1, 2]
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    orders.put({"covered": 3})

    def tell(text: str, level: str) -> None:
        said.append(f"{level}: {text}")
        if "again" in text and level == "info":
            orders.put({"close": "stopped"})

    obey(sender(tmp_path, server, said), orders, tell, retry_s=0.01)
    assert steps(server) == [[1, 2, 3]]
    assert [line for line in said if "server" not in line] == [
        "warning: cannot be reached (ConnectionError: the answer was lost); trying again",
        "info: takes data again",
    ]


def test_an_end_that_fails_is_tried_again(tmp_path: Path) -> None:
    server, said = Server(), []
    server.refused_ends = 2
    log(tmp_path, 0, 3)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    orders.put({"covered": 3, "close": "done"})
    one = sender(tmp_path, server, said)
    obey(one, orders, lambda text, level: said.append(f"{level}: {text}"), retry_s=0.01)
    assert steps(server) == [[1, 2, 3]]
    assert server.ends == ["done"]
    assert sum("trying again" in line for line in said) == 1


def test_a_resume_from_before_what_was_sent_is_a_new_run_with_the_whole_history(tmp_path: Path) -> None:
    server, said = Server(), []
    log(tmp_path, 0, 8)
    sender(tmp_path, server, said).send(8)
    log(tmp_path, 4, 6, life=1)  # checkpoint.resume=4
    sender(tmp_path, server, said, resumed=4).send(6)
    sender(tmp_path, server, said, resumed=6).send(6)
    assert steps(server) == [list(range(1, 9)), list(range(1, 7))]
    first, second = server.runs
    assert [row["loss"] for _, row in server.runs[second]] == [0, 0, 0, 0, 1, 1]
    assert server.replaced == [None, None, first, None]
    assert server.ends == ["superseded"]
    assert sum("its whole history" in line for line in said) == 1
    assert "secret" not in "".join([*said, read_record(tmp_path, "test")["place"]])


def test_the_tracker_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_lines_tracker(tmp_path / "site")
    assert "is no known tracker" in str(tracker_problem("lines", {}))
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert tracker_problem("lines", {}) is None
    assert "lines" in entry_points(group="dydist.monitors").names
    run = TrackedRun(id="abc", name="run", folder=tmp_path, config={})
    tracker = make("lines")
    assert tracker.start(run) is None
    tracker.log(1, 0.0, {"loss": 1.0}, {})
    tracker.log(2, 0.0, {"loss": 2.0}, {})
    with open(tracker.place, "a") as file:
        file.write('{"step": 3, "lo')  # a kill
    assert make("lines").start(run) == 2
    assert Path(tracker.place).read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n'


def test_what_a_tracker_lacks_is_told_before_data_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(package: str) -> None:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()

    monkeypatch.setattr(
        "dydist.config.trackers.find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)])
    )
    install("mlflow")
    (tmp_path / "wandb").mkdir()  # as W&B leaves it in the working directory; no package
    assert tracker_problem("wandb", {}) == (
        "wandb needs a package that is not installed; pip install 'dydist[wandb]'"
    )
    assert "did you mean wandb?" in str(tracker_problem("wandbb", {}))
    assert "MLFLOW_TRACKING_URI" in str(tracker_problem("mlflow", {}))
    assert tracker_problem("mlflow", {"MLFLOW_TRACKING_URI": "http://host:5000"}) is None
    database = {"MLFLOW_TRACKING_URI": "postgresql+psycopg2://user:password@host/db"}
    assert "pip install sqlalchemy" in str(tracker_problem("mlflow", database))
    assert "password" not in str(tracker_problem("mlflow", database))
    install("sqlalchemy")
    install("wandb")
    PathFinder.invalidate_caches()
    assert tracker_problem("mlflow", database) is None
    assert tracker_problem("wandb", {}) is None
