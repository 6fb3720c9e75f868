from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from dydist.monitor import JsonLines, StatusFile
from helpers.monitor_records import Clock, checkpoint_record, evaluation_record, step_record, summary

FOREVER = 3600.0


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def test_status_follows_the_run(tmp_path: Path) -> None:
    path, clock, ticks = tmp_path / "status.json", Clock(), Clock(0.0)
    status = StatusFile(
        path, world_size=2, environ={"SLURM_JOB_ID": "77"}, now=clock, monotonic=ticks, heartbeat_s=FOREVER
    )
    assert read(path)["state"] == "starting"
    assert read(path)["job"] == "77"
    status.start(step=0, total_steps=100, steps_per_epoch=10)
    ticks.now += 20.0
    clock.now += 20.0
    status.step(step_record(10))
    running = read(path)
    assert (running["state"], running["step"], running["total_steps"]) == ("running", 10, 100)
    assert running["eta_s"] == 180.0  # 2 s a step, 90 to go
    assert running["updated"] == running["progressed"] == 1020.0
    status.evaluation(evaluation_record(10, accuracy=0.8))
    status.evaluation(evaluation_record(20, accuracy=0.7))
    status.checkpoint(checkpoint_record(20, error="refused"))
    status.note("storage refuses", level="warning")
    told = read(path)
    assert (told["accuracy"], told["best_accuracy"]) == (0.7, 0.8)
    assert told["last_checkpoint"]["error"] == "refused"
    assert [alert["text"] for alert in told["alerts"]] == ["storage refuses"]
    status.close(summary())
    assert read(path)["state"] == "done"


def test_averaged_weights_on_the_test_split_do_not_replace_their_validation_accuracy(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", world_size=1, heartbeat_s=FOREVER)
    for split, ema, accuracy in (
        *(("validation", False, 0.7), ("test", False, 0.6)),
        *(("validation", True, 0.8), ("test", True, 0.9)),
    ):
        status.evaluation(evaluation_record(10, accuracy, split=split, ema=ema))
    told = read(tmp_path / "status.json")
    assert (told["accuracy"], told["test_accuracy"], told["ema_accuracy"]) == (0.7, 0.6, 0.8)
    status.close(summary())


def test_the_heartbeat_goes_on_without_records(tmp_path: Path) -> None:
    beats = threading.Semaphore(0)

    def now() -> float:
        beats.release()
        return 1.0

    status = StatusFile(tmp_path / "status.json", world_size=1, now=now, heartbeat_s=0.001)
    for _ in range(20):
        assert beats.acquire(timeout=10)
    status.close(summary("stopped"))
    assert read(tmp_path / "status.json")["state"] == "stopped"


def test_a_resume_knows_the_accuracy_up_to_its_step(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path)
    lines.start(step=0, total_steps=100, steps_per_epoch=10)
    for step, accuracy in ((10, 0.5), (20, 0.9), (30, 0.6), (40, 0.95)):
        lines.evaluation(evaluation_record(step, accuracy=accuracy))
    first = StatusFile(tmp_path / "status.json", world_size=1, heartbeat_s=FOREVER)
    first.checkpoint(checkpoint_record(30))
    JsonLines(tmp_path).start(step=30, total_steps=100, steps_per_epoch=10)
    status = StatusFile(tmp_path / "status.json", world_size=1, heartbeat_s=FOREVER)
    status.start(step=30, total_steps=100, steps_per_epoch=10)
    resumed = read(tmp_path / "status.json")
    assert (resumed["accuracy"], resumed["best_accuracy"]) == (0.6, 0.9)
    assert resumed["last_checkpoint"]["step"] == 30
