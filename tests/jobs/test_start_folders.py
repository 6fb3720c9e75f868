"""Which start of which submission a folder is of: numbers are given again, counts are inherited."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dydist.jobs.attempt import attempts, claim_start, own_log_dir
from dydist.jobs.batch_script import around_srun
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.submit import make_spec


def submission(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_text("{}")
    return str(folder)


def test_all_nodes_of_a_start_agree_on_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever comes first; a restart count that the caller's environment had counts for nothing."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "7")
    with ThreadPoolExecutor(8) as pool:
        for number in range(3):
            found = list(pool.map(lambda _, name=f"12.{number}": claim_start(tmp_path, name), range(8)))
            assert found == [number] * 8


@pytest.mark.parametrize("left", ["exit-0/rank-0.json", "node-0.log", "decision.json"])
def test_a_folder_of_unknown_origin_is_no_start_of_ours(tmp_path: Path, left: str) -> None:
    """As an earlier version left it, or the batch script of a start that could not report."""
    file = tmp_path / "attempt-000" / left
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert claim_start(tmp_path, "12.1") == 1


@pytest.mark.parametrize("marked", [True, False], ids=["of a submission", "of an earlier version"])
def test_a_number_given_again_finds_no_files_of_the_earlier_job(tmp_path: Path, marked: bool) -> None:
    """Its exit files, history and request to cancel are kept beside; all nodes see an empty folder."""
    log_dir = tmp_path / "logs" / "12"
    first, second = submission(tmp_path / "first"), submission(tmp_path / "second")
    if marked:
        own_log_dir(log_dir, first, "12.1")
    old = log_dir / "attempt-000" / "exit-0" / "rank-0.json"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps({"code": 0, "step": 46}))
    (log_dir / "starts.jsonl").write_text('{"saved_step": 46}\n' * 3)
    (log_dir / "cancel.json").write_text("{}")
    os.utime(log_dir / "cancel.json", (1, 1))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: own_log_dir(log_dir, second, "12.2"), range(4)))
    assert attempts(log_dir) == []
    assert sorted(path.name for path in log_dir.iterdir()) == ["submission.json"]
    (kept,) = (tmp_path / "logs").glob("12-before-*")
    assert (kept / "attempt-000" / "exit-0" / "rank-0.json").exists()
    own_log_dir(log_dir, second, "12.3")  # the next start of the same submission
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_a_request_to_cancel_the_new_job_is_not_lost(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs" / "12"
    own_log_dir(log_dir, submission(tmp_path / "first"), "12.1")
    second = submission(tmp_path / "second")
    (log_dir / "cancel.json").write_text('{"now": false}')
    later = (Path(second) / "snapshot.json").stat().st_mtime + 5
    os.utime(log_dir / "cancel.json", (later, later))
    own_log_dir(log_dir, second, "12.2")
    assert json.loads((log_dir / "cancel.json").read_text()) == {"now": False}


def run_script(tmp_path: Path, *lines: str) -> tuple[Path, str]:
    """A batch script with `lines` in place of srun, of a job whose run folder has a quote in its path; its log folder.

    SLURM, which is asked at its end, says that the job runs.
    """
    folder = tmp_path / "it's a run" / "submissions" / "s"
    if not folder.exists():
        submission(folder)
    spec = make_spec(Profile(gpus_per_node=0), [], run_dir=tmp_path / "it's a run", folder=folder)
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "scontrol").write_text("#!/bin/sh\necho 'JobId=12 JobState=RUNNING ExcNodeList=(null) '\n")
    (commands / "scontrol").chmod(0o755)
    tasks = tmp_path / "tasks"
    tasks.mkdir(exist_ok=True)
    script = [*around_srun([spec], tasks=tasks, requeue=True), "sleep() { :; }", *lines]
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    result = subprocess.run(
        ["bash", "-c", "\n".join(script)], env=environment, capture_output=True, text=True
    )
    return tmp_path / "it's a run" / "logs" / "12", result.stderr


def test_a_start_that_could_not_report_is_of_the_same_job(tmp_path: Path) -> None:
    """Its batch script leaves a decision, and the next start goes on in the same folder."""
    log_dir, said = run_script(tmp_path, "exit 137")
    (first,) = attempts(log_dir)
    decision = first.decision()
    assert decision is not None, said
    assert (decision["action"], decision["reason"]) == ("requeue", "killed at once (exit code 137)")
    own_log_dir(log_dir, str(tmp_path / "it's a run" / "submissions" / "s"), "12.2")
    assert claim_start(log_dir, "12.2") == 1
    assert [path.name for path in log_dir.parent.iterdir()] == ["12"]


BEGIN = 'mkdir -p "$dydist_logs"/attempt-00$n; echo "\\"$DYDIST_START\\"" > "$dydist_logs"/attempt-00$n/start.json'
"""A task of this start, the n-th, has begun."""
LOST = "srun: error: Task launch for StepId=12.0 failed on node n2: Communication connection failure"
LATER = "srun: error: Application launch failed: Communication connection failure"


def test_a_start_whose_first_node_alone_was_launched_counts_as_unlaunched(tmp_path: Path) -> None:
    """Its tasks are killed before they can decide; no later start would ever count it, and so it has no end."""
    reasons = []
    for number in range(3):
        words = [
            f"n={number}",
            BEGIN,
            f"echo '{LOST}' >> \"$dydist_output\"",
            f"echo '{LATER}' >> \"$dydist_output\"",
        ]
        log_dir, said = run_script(tmp_path, *words, "exit 137")
        decision = attempts(log_dir)[-1].decision()
        assert decision is not None, said
        reasons.append((decision["action"], decision["reason"]))
    why = "SLURM could not launch: " + LOST.removeprefix("srun: error: ")
    assert reasons == [
        ("requeue", why),
        ("requeue", why),
        ("fail", f"gave up after 3 starts in a row that {why}"),
    ]


def test_a_node_that_fails_after_the_launch_is_no_failed_launch(tmp_path: Path) -> None:
    """srun says so of a node that is lost in the middle of training: the next start tells what is known of it."""
    said = "echo 'srun: error: Node failure on n2' >> \"$dydist_output\""
    log_dir, _ = run_script(tmp_path, "n=0", BEGIN, said, "exit 137")
    assert [one.decision() for one in attempts(log_dir)] == [None]
    log_dir, _ = run_script(tmp_path, said, "exit 137")
    decision = attempts(log_dir)[-1].decision()
    assert decision is not None
    assert decision["reason"] == "SLURM could not launch: Node failure on n2"
