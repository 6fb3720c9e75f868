"""A run is its folder and its checkpoint place: claimed and compared together, and nothing is cut for a mismatch."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import fsspec
import pytest

from dydist.checkpoint import StoredRun, open_storage, survey
from dydist.cli.main import main
from dydist.config import CheckpointConfig, Config, MonitorConfig
from dydist.errors import UserError
from dydist.run.folder import RECORD, RunFolder, saved_history
from helpers.digit_runs import FEW, FEW_STEPS, files, flags, steps_saved
from helpers.support import Run, metrics, train

MORE = ("--train.max_steps", 9)


def at(place: Path | str, *more: object) -> tuple[object, ...]:
    return ("--checkpoint.url", place, *more)


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The folder of a run of six steps, saved at three and six."""
    train(flags(tmp_path, "run", *FEW), 1, tmp_path / "log")
    return tmp_path / "run"


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_folder_is_not_used_with_a_place_that_lacks_its_checkpoints(
    resume: str, world_size: int, done: Path, tmp_path: Path
) -> None:
    before = files(done)
    other = flags(tmp_path, "run", *FEW, *MORE, *at(tmp_path / "other", "--checkpoint.resume", resume))
    text = train(other, world_size, tmp_path / "log2", code=2)
    assert f"run.name: {done} belongs to a run that is saved up to step 6 at {done / 'checkpoints'}" in text
    assert f"`dydist checkpoint copy {done / 'checkpoints'} {tmp_path / 'other'}`" in text
    assert text.count("dydist:") == 1
    assert text.strip().count("\n") == 0
    assert files(done) == before
    assert not list((tmp_path / "other").glob("*"))


def test_checkpoints_that_were_copied_are_gone_on_with_and_their_place_is_the_run_s_from_then_on(
    done: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert main(["checkpoint", "copy", str(done / "checkpoints"), str(other)]) == 0
    train(flags(tmp_path, "run", *FEW, *MORE, *at(other)), 1, tmp_path / "log2")
    assert [line["step"] for line in metrics(done)] == list(range(1, 10))
    text = train(flags(tmp_path, "run", *FEW, *MORE), 1, tmp_path / "log3", code=2)
    assert f"saved up to step 9 at {other}" in text
    assert steps_saved(done) == [3, 6]


def test_a_step_that_was_copied_alone_is_gone_back_to_when_it_is_asked_for(
    done: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert main(["checkpoint", "copy", str(done / "checkpoints"), str(other), "--step", "3"]) == 0
    text = train(flags(tmp_path, "run", *FEW, *at(other)), 1, tmp_path / "log2", code=2)
    assert "holds nothing after step 3 of it" in text
    train(flags(tmp_path, "run", *FEW, *at(other, "--checkpoint.resume", "3")), 1, tmp_path / "log3")
    assert [line["step"] for line in metrics(done)] == list(range(1, FEW_STEPS + 1))


def test_another_run_s_place_is_refused_however_far_it_got(done: Path, tmp_path: Path) -> None:
    train(flags(tmp_path, "second", *FEW, *MORE), 1, tmp_path / "log2")
    before = files(done), files(tmp_path / "second")
    place = tmp_path / "second" / "checkpoints"
    for resume in ("auto", "never", "6"):
        other = flags(tmp_path, "run", *FEW, *MORE, *at(place, "--checkpoint.resume", resume))
        text = train(other, 1, tmp_path / f"log-{resume}", code=2)
        assert f"the checkpoints at {place} are another run's" in text
    assert (files(done), files(tmp_path / "second")) == before


def test_a_fresh_folder_goes_on_with_a_place_as_on_another_machine(tmp_path: Path) -> None:
    place = tmp_path / "place"
    train(flags(tmp_path / "here", "run", *FEW, *at(place)), 1, tmp_path / "log")
    train(flags(tmp_path / "there", "run", *FEW, *MORE, *at(place)), 1, tmp_path / "log2")
    assert [line["step"] for line in metrics(tmp_path / "there" / "run")] == [7, 8, 9]
    ids = {json.loads((tmp_path / where / "run" / RECORD).read_text())["run"] for where in ("here", "there")}
    assert len(ids) == 1
    # back on the first machine: the place is further than the folder, which is no reason to refuse
    train(flags(tmp_path / "here", "run", *FEW, "--train.max_steps", 12, *at(place)), 1, tmp_path / "log3")
    assert metrics(tmp_path / "here" / "run")[-1]["step"] == 12


def test_two_live_runs_do_not_share_a_folder_and_a_killed_one_gives_it_up(tmp_path: Path) -> None:
    first = Run(
        flags(tmp_path, "run", "--train.epochs", "50", *at(tmp_path / "a")), 1, tmp_path / "log", hold=3
    )
    first.wait_for_step(tmp_path / "run", 3)
    before = files(tmp_path / "run")["metrics.jsonl"]
    second = flags(tmp_path, "run", *FEW, *at(tmp_path / "b"))
    text = train(second, 2, tmp_path / "log2", code=2)
    assert f"run.name: {tmp_path / 'run'} is in use by run 'run' on host" in text
    assert str(first.processes[0].pid) in text
    assert files(tmp_path / "run")["metrics.jsonl"] == before
    assert not list((tmp_path / "b").glob("*"))  # nor is the place claimed
    first.signal(signal.SIGKILL)
    first.wait()
    train(second, 1, tmp_path / "log3")  # it was killed before its first save: nothing belongs to it
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, FEW_STEPS + 1))
    assert not (tmp_path / "run" / ".LEASE.json").exists()


@pytest.mark.long
def test_a_run_whose_folder_is_taken_over_stops_and_saves_no_more(tmp_path: Path) -> None:
    run = Run(
        flags(tmp_path, "run", "--train.epochs", "5000", "--checkpoint.every_steps", "100000"),
        1,
        tmp_path / "log",
    )
    run.wait_for_step(tmp_path / "run", 3)
    lease = tmp_path / "run" / ".LEASE.json"
    lease.write_text(
        json.dumps({**json.loads(lease.read_text()), "token": "another", "run": "usurper", "pid": 1})
    )
    assert run.wait() == [1], run.text()
    assert f"{tmp_path / 'run'} was taken over by run 'usurper'" in run.text()
    assert "Traceback" not in run.text()
    assert steps_saved(tmp_path / "run") == []
    assert json.loads(lease.read_text())["token"] == "another"


def history(folder: Path, *events: tuple[object, ...]) -> None:
    lines = []
    for kind, step, *more in events:
        values = {"kind": kind, "step": step}
        if kind == "checkpoint":
            values |= {"url": "/old", "error": more[0] if more else None}
        lines.append(json.dumps(values))
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("\n".join([*lines, "", "torn {"]))


@pytest.mark.parametrize(
    ("events", "saved"),
    [
        ([], 0),
        ([("start", 0), ("checkpoint", 3), ("checkpoint", 6)], 6),
        ([("start", 0), ("checkpoint", 3), ("checkpoint", 6, "disk full")], 3),
        ([("start", 0), ("checkpoint", 6), ("start", 3)], 3),
        ([("start", 0), ("checkpoint", 6), ("start", 0)], 0),
        ([("start", 6), ("checkpoint", 9), ("checkpoint", 7)], 9),
    ],
)
def test_how_far_a_folder_s_run_is_saved(
    events: list[tuple[object, ...]], saved: int, tmp_path: Path
) -> None:
    history(tmp_path / "run", *events)
    assert saved_history(tmp_path / "run")[0] == saved


@pytest.mark.parametrize(
    ("place", "steps", "mine", "theirs", "resume", "fine"),
    [
        ("/old", (3, 6), None, None, "auto", True),  # as version 0.1 left it
        ("/new", (3, 6), None, None, "auto", True),  # copied
        ("/new", (6, 9), "a", "a", "auto", True),  # went on elsewhere
        ("/old", (3,), "a", "a", "auto", False),  # the newest was removed
        ("/old", (3,), "a", "a", "3", True),
        ("/old", (3,), "a", "a", "never", True),
        ("/old", (), "a", None, "never", True),
        ("/old", (), "a", None, "auto", False),
        ("/new", (), "a", None, "auto", False),
        ("/new", (), "a", None, "never", False),
        ("/new", (3,), "a", "a", "3", True),
        ("/new", (6,), "a", "b", "auto", False),
        ("/new", (6,), "a", "b", "never", False),
        ("/new", (6,), "a", "b", "6", False),
        ("/new", (), "a", None, "/weights/of/another", False),
        ("/new", (6,), "a", "a", "/weights/of/another", True),
    ],
)
def test_which_places_a_folder_goes_on_with(
    place: str,
    steps: tuple[int, ...],
    mine: str | None,
    theirs: str | None,
    resume: str,
    fine: bool,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    history(folder, ("start", 0), ("checkpoint", 3), ("checkpoint", 6))
    if mine is not None:
        (folder / RECORD).write_text(json.dumps({"run": mine, "checkpoints": "/old"}))
    start = RunFolder(Config(checkpoint=CheckpointConfig(url=place, resume=resume)), folder)
    held = StoredRun(steps=steps, run=theirs)
    if fine:
        assert start.admit(held) == (theirs or mine) or (theirs, mine) == (None, None)
    else:
        with pytest.raises(
            UserError, match=r"^run\.name: .* belongs to a run that is saved up to step 6 at /old"
        ):
            start.admit(held)


def test_a_folder_whose_run_saved_nothing_takes_the_place_s_run_and_drops_its_own_lines(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    history(folder, ("start", 0))
    (folder / RECORD).write_text(json.dumps({"run": "mine", "checkpoints": "/old"}))
    (folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1}\n')
    start = RunFolder(Config(checkpoint=CheckpointConfig(url="/new")), folder)
    assert start.admit(StoredRun(steps=(6,), run="theirs")) == "theirs"
    assert (folder / "metrics.jsonl").read_text()  # not before it is certain
    start.record()
    assert (folder / "metrics.jsonl").read_text() == ""
    assert json.loads((folder / RECORD).read_text()) == {"run": "theirs", "checkpoints": "/new"}


def test_checkpoints_carry_the_run_s_id(done: Path) -> None:
    storage = open_storage(str(done / "checkpoints"))
    ids = {json.loads(path.read_text())["run"] for path in (done / "checkpoints").glob("step-*/state*.json")}
    assert ids == {json.loads((done / RECORD).read_text())["run"]}
    assert len(survey(storage)) == 2


@pytest.mark.parametrize("remote", [False, True])
def test_two_runs_do_not_share_a_log_folder(remote: bool, tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    logdir = "memory://logs/shared" if remote else str(tmp_path / "shared")
    config = Config(monitor=MonitorConfig(logdir=logdir))
    nothing, folders = StoredRun(steps=(), run=None), [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first = RunFolder(config, folders[0])
    first.admit(nothing)
    RunFolder(config, folders[1]).admit(nothing)  # a start that came to nothing has claimed nothing
    first.record()
    RunFolder(config, folders[0]).admit(nothing)  # the same run again
    with pytest.raises(UserError, match=r"^monitor\.logdir: .*shared holds the log of another run \(.*/a\)"):
        RunFolder(config, folders[1]).admit(nothing)


def test_a_log_folder_that_cannot_be_reached_costs_no_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    start = RunFolder(Config(monitor=MonitorConfig(logdir=str(tmp_path / "file" / "log"))), tmp_path)
    start.admit(StoredRun(steps=(), run=None))
    start.record()


def test_a_second_run_with_the_log_folder_of_the_first_is_refused(tmp_path: Path) -> None:
    log = ("--monitor.logdir", tmp_path / "log")
    train(flags(tmp_path, "first", *FEW, *log), 1, tmp_path / "out")
    train(flags(tmp_path, "first", *FEW, *MORE, *log), 1, tmp_path / "out2")
    before = files(tmp_path / "log")
    text = train(flags(tmp_path, "second", *FEW, *log), 2, tmp_path / "out3", code=2)
    assert f"monitor.logdir: {tmp_path / 'log'} holds the log of another run" in text
    assert files(tmp_path / "log") == before
