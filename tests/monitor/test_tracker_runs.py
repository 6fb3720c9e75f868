"""Real trackers, in processes of their own: killed and resumed runs, and trackers that hang."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from dydist.config import Config, MonitorConfig
from dydist.config.reader import to_dict
from dydist.config.schema import RunConfig
from dydist.monitor.build import trackers_of
from dydist.monitor.trackers.process import CLOSE_S, TrackerProcess
from dydist.monitor.trackers.protocol import TrackedRun
from dydist.monitor.trackers.record import read_record
from helpers.monitor_records import checkpoint_record, step_record, summary
from helpers.support import REPOSITORY, Run, train
from helpers.trackers import (
    UntrainedRun,
    install_lines_tracker,
    lines_scalars,
    mlflow_run,
    need,
    tensorboard_scalars,
    wandb_scalars,
)

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tracker of the guide, W&B offline and a local MLflow store, without what the machine has of either."""
    install_lines_tracker(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", KEY)
    return tmp_path


@dataclass
class SilentServer:
    """Accepts connections and never answers."""

    url: str
    connected: threading.Event


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []
    server = SilentServer(f"http://127.0.0.1:{listener.getsockname()[1]}", threading.Event())

    def accept() -> None:
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return
            server.connected.set()

    thread = threading.Thread(target=accept)
    thread.start()
    yield server
    listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
    listener.close()
    thread.join()
    for connection in kept:
        connection.close()


def killed_run(run_dir: Path, name: str, *, kills: int = 1) -> UntrainedRun:
    """Each life logs eight steps, saves after the fifth and is killed; the last one logs ten and ends."""
    start = 0
    for life in range(kills):
        run = UntrainedRun(run_dir, name)
        run.start(start)
        run.log(start + 1, start + 8, life=life)
        run.save(start + 5)
        run.wait_until_sent(start + 5)
        run.die()
        start += 5
    run = UntrainedRun(run_dir, name)
    run.start(start)
    run.log(start + 1, start + 10, life=kills)
    run.save(start + 10)
    run.close()
    return run


def no_secret_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_tracker_by_entry_point_has_each_step_once(environment: Path) -> None:
    run = killed_run(environment / "run", "lines", kills=2)
    assert lines_scalars(environment / "run") == tensorboard_scalars(environment / "run")
    assert run.said == [f"lines shows this run at {read_record(environment / 'run', 'lines')['place']}"]


def test_mlflow_gets_the_rest_of_a_step_that_a_kill_cut(environment: Path) -> None:
    need("mlflow")
    from dydist.monitor.trackers.mlflow import MlflowTracker

    run = TrackedRun(
        id="abc", name="run", folder=environment, config={"optim.lr": 0.1, "data.name": "x" * 999}
    )
    first = MlflowTracker()
    assert first.start(run) is None
    first.log(1, 1_000.0, {"loss": 1.0, "accuracy_by_class/a+b": 0.5}, {"images/input": b"PNG"})
    before = first._client.log_batch
    first._client.log_batch = lambda run_id, metrics=(), tags=(): before(run_id, metrics[:1])
    first.log(2, 2_000.0, {"loss": 2.0, "accuracy_by_class/a+b": 0.6}, {})  # and no tag
    again = MlflowTracker()
    assert again.start(replace(run, config={"optim.lr": 0.2})) == 1
    again.log(2, 2_000.0, {"loss": 2.0, "accuracy_by_class/a+b": 0.6}, {"images/input": b"PNG"})
    again.finish("done")
    shown, scalars = mlflow_run(str(environment / "mlruns"))
    assert scalars == {"loss": {1: 1.0, 2: 2.0}, "accuracy_by_class/a_b": {1: 0.5, 2: 0.6}}
    assert shown.data.params["optim.lr"] == "0.1"
    assert shown.data.tags["optim.lr"] == "0.2"
    assert shown.info.status == "FINISHED"
    images = sorted(path.name for path in environment.glob("mlruns/**/images/input/*.png"))
    assert images == ["000000001.png", "000000002.png"]
    third = MlflowTracker()
    third.start(replace(run, id="abc-2", replaces="abc"))
    assert third._find(shown.info.experiment_id, "abc").data.tags["dydist.replaced_by"] == "abc-2"


@pytest.mark.long
def test_mlflow_has_one_run_with_each_step_once(environment: Path) -> None:
    need("mlflow")
    killed_run(environment / "run", "mlflow")
    run, scalars = mlflow_run(str(environment / "mlruns"))
    assert scalars == tensorboard_scalars(environment / "run")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "optim.lr": "0.1"}
    shown = sorted(path.name for path in Path(environment / "mlruns").rglob("*.png"))
    assert shown == ["000000015.png"]
    no_secret_in(environment / "run")


def test_wandb_offline_gets_what_is_logged(environment: Path) -> None:
    need("wandb")
    from dydist.monitor.trackers.wandb import WandbTracker

    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "png")
    tracker = WandbTracker()
    run = TrackedRun(id="abc", name="run", folder=environment, config={"optim.lr": 0.1})
    assert tracker.start(run) is None
    tracker.log(1, 1_000.0, {"loss": 1.0}, {})
    tracker.log(2, 1_000.0, {"loss": 0.5}, {"images/input": png.getvalue()})
    tracker.finish("done")
    shown, scalars = wandb_scalars(environment)
    assert scalars == {"loss": {1: 1.0, 2: 0.5}}
    assert shown.run_id == "abc"
    assert len(list(environment.rglob("media/images/images/*.png"))) == 1
    no_secret_in(environment)


@pytest.mark.long
def test_wandb_offline_keeps_what_the_new_folder_lacks(environment: Path) -> None:
    need("wandb")
    from dydist.monitor.trackers.wandb import WandbTracker

    run = TrackedRun(id="abc", name="run", folder=environment, config={})

    def folders_after(steps: tuple[int, ...], *, ends: bool = True) -> int:
        time.sleep(1)  # a folder's name has the second of its start
        tracker = WandbTracker()
        assert tracker.start(run) is None
        for step in steps:
            tracker.log(step, 1_000.0 + step, {"loss": 1 / step}, {})
        if ends:
            tracker.finish("stopped")
        return len(list(environment.glob("wandb/offline-run-*")))

    assert folders_after((1, 2)) == 1
    assert folders_after((3,)) == 2  # a new monitor.logdir
    assert folders_after((1, 2, 3), ends=False) == 3
    assert folders_after((1, 2, 3)) == 1
    assert wandb_scalars(environment)[1] == {"loss": {1: 1.0, 2: 0.5, 3: 1 / 3}}


@pytest.mark.long
def test_wandb_has_one_run_with_each_step_once(environment: Path) -> None:
    need("wandb")
    killed_run(environment / "run", "wandb")
    run, scalars = wandb_scalars(environment / "run")
    assert scalars == tensorboard_scalars(environment / "run")
    assert run.run_id == read_record(environment / "run", "wandb")["id"]
    assert len(list(environment.rglob("media/images/images/*.png"))) == 1
    no_secret_in(environment / "run")


@pytest.mark.parametrize(
    "name", ["silent", *(pytest.param(name, marks=pytest.mark.long) for name in ("mlflow", "wandb"))]
)
def test_a_tracker_that_never_answers_costs_the_loop_nothing(
    name: str, environment: Path, silent_server: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "silent":
        need(name)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_BASE_URL", "SILENT_SERVER"):
        monkeypatch.setenv(variable, silent_server.url)
    monkeypatch.setenv("WANDB_MODE", "online")
    run = UntrainedRun(environment / "run", name, close_s=0.3)
    run.start(0)
    run.log(1, 1)
    run.save(1)
    assert silent_server.connected.wait(60)
    process = run.trackers[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # nobody reads the orders
    began = time.thread_time()
    for step in range(2, 10_002):
        run.trackers[0].step(step_record(step))
        run.trackers[0].checkpoint(checkpoint_record(step))
    assert time.thread_time() - began < 1  # under 0.1 ms each; the pipe is full by now
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 10
    assert run.said[-1] == f"{name} may not have all steps; the same command sends the rest"


def test_a_run_that_is_done_sends_what_its_tracker_missed(environment: Path) -> None:
    config = Config(run=RunConfig(dir=str(environment)), monitor=MonitorConfig(trackers=("lines",)))
    run = UntrainedRun(config.run.folder)
    run.start(0)
    run.log(1, 10)
    run.close()
    (tracker,) = trackers_of(config, config.run.folder, to_dict(config), run.tell, unfinished=True)
    tracker.start(step=10, total_steps=10, steps_per_epoch=0)
    tracker.close(summary("done"))
    assert lines_scalars(config.run.folder) == tensorboard_scalars(config.run.folder)
    assert trackers_of(config, config.run.folder, to_dict(config), run.tell, unfinished=True) == []


def test_a_tracker_that_does_not_finish_is_told_and_costs_the_others_no_time(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLOSE_S, "done", 0.2)
    names = ("hanging", "lines")
    config = Config(run=RunConfig(dir=str(environment)), monitor=MonitorConfig(trackers=names))
    run = UntrainedRun(config.run.folder)
    trackers = trackers_of(config, config.run.folder, to_dict(config), run.tell)
    run.trackers = [tracker for tracker in trackers if isinstance(tracker, TrackerProcess)]
    run.start(0)
    run.log(1, 3)
    run.save(3)
    run.wait_until_sent(3)
    hanging, lines = run.trackers
    hanging.close(summary("done"))
    assert run.said[-1] == "hanging may not have all steps; the same command sends the rest"
    assert lines._process is not None
    assert lines._process.wait(10) == 0  # it was told before the wait for the other one
    run.close()
    assert sum("may not have" in text for text in run.said) == 1
    assert [read_record(config.run.folder, name)["finished"] for name in names] == [None, "done"]


def test_a_tracker_that_falls_behind_is_told_once(environment: Path) -> None:
    clock = [0.0]
    said: list[str] = []
    tracker = TrackerProcess(
        "lines", run="run", run_dir=environment, events=environment, config={},
        tell=lambda text, level: said.append(f"{level}: {text}"), monotonic=lambda: clock[0],
    )  # fmt: skip
    for step in range(1, 40):
        clock[0] += 10
        tracker.checkpoint(checkpoint_record(step))
        tracker.step(step_record(step))
    assert said == ["warning: lines: has not taken a checkpoint's steps for 120 s; it gets them later"]


def test_a_tracker_whose_process_dies_gets_another_one(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    run = UntrainedRun(environment / "run", "lines")
    run.trackers[0]._monotonic = lambda: clock[0]
    run.start(0)
    process = run.trackers[0]._process
    assert process is not None
    process.kill()
    process.wait()
    run.trackers[0]._read = b'{"te'  # it died while it wrote
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("its number may be another process's"))
    run.log(1, 3)
    run.save(3)  # nobody reads it
    clock[0] = 1_000.0
    run.log(4, 6)
    run.save(6)
    run.close()
    assert lines_scalars(environment / "run") == tensorboard_scalars(environment / "run")
    assert sum("started again" in text for text in run.said) == 1


def _offer(site: str) -> None:
    sys.path.insert(0, site)


@pytest.mark.long
@pytest.mark.parametrize("names", ["lines", "wandb,mlflow,lines"])
def test_a_training_run_is_killed_three_times(names: str, environment: Path) -> None:
    for name in names.split(","):
        if name != "lines":
            need(name)
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = random.Random(seed)
    run_dir = environment / "runs" / "run"
    arguments = [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", run_dir.parent),
        *("--run.name", "run", "--model.width", "0.0625", "--model.stem", "strided", "--train.epochs", "4"),
        *("--monitor.every_steps", "1", "--monitor.trackers", names, "--checkpoint.every_steps", "5"),
        *("--optim.warmup_epochs", "0", "--temperature.epochs", "1", "--parallel.threads", "1"),
    ]  # fmt: skip
    variables = {n: v for n, v in os.environ.items() if n.startswith(("WANDB_", "MLFLOW_"))}
    offered = partial(_offer, str(environment / "site"))
    for life in range(3):
        run = Run(arguments, 1, environment / f"log-{life}", before=offered, **variables)
        run.wait_for_step(run_dir, 20 * (life + 1) + rng.randint(0, 9))
        run.processes[0].kill()
        assert run.wait() == [-signal.SIGKILL], run.text()
    train(arguments, 1, environment / "log-end", before=offered, **variables)
    shown = tensorboard_scalars(run_dir)
    assert list(shown["loss/train"]) == list(range(1, 89))
    assert lines_scalars(run_dir) == shown
    if "mlflow" in names:
        assert mlflow_run(str(environment / "mlruns"))[1] == shown
        assert wandb_scalars(run_dir)[1] == shown
    no_secret_in(run_dir)
