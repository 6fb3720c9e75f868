"""One state out of what SLURM, the job's starts and the run itself say."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dydist.cli.jobs_view import render
from dydist.jobs.attempt import Attempt, Outcome
from dydist.jobs.files import append_json, write_json
from dydist.jobs.slurm import JobInfo, without_strangers
from dydist.jobs.submission.reasons import explain
from dydist.jobs.submission.status import JobStatus, status_of

NOW = 1000.0


class Job:
    """The files of a job, written as nodes and training write them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = {
            "job": "12", "name": "r", "cluster": "slurm", "run_dir": str(folder), "submission": str(folder / "s"),
            "log_dir": str(folder / "logs" / "12"), "task_logs": str(folder / "logs" / "tasks"),
        }  # fmt: skip
        self.log_dir = folder / "logs" / "12"

    def start(self, number: int = 0, time: float = 900.0) -> None:
        (self.log_dir / f"attempt-{number:03d}").mkdir(parents=True)
        append_json(self.log_dir / "starts.jsonl", {"attempt": number, "saved_step": 0, "time": time})

    def decide(self, action: str, reason: str, number: int = 0) -> None:
        content = {
            "action": action,
            "code": 0,
            "reason": reason,
            "time": NOW,
            "saved_step": 5,
            "decided_by": "n1",
        }
        write_json(self.log_dir / f"attempt-{number:03d}" / "decision.json", content)

    def run(self, state: str, *, started: float = 905.0, updated: float = 999.0, **more: Any) -> None:
        content = {"state": state, "job": "12", "started": started, "updated": updated, "step": 3, **more}
        write_json(self.folder / "status.json", content)

    def status(self, scheduler: str | None, problem: str = "", reason: str = "") -> JobStatus:
        info = JobInfo(job="12", state=scheduler, reason=reason, nodes="n1") if scheduler else None
        return status_of(self.record, info, problem, NOW)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_the_life_of_a_job(job: Job) -> None:
    found = job.status("PENDING", reason="Resources")
    assert (found.state, found.reason, found.starts) == ("pending", "Resources", 0)
    assert job.status("CONFIGURING").state == "starting"
    job.start()
    assert job.status("RUNNING").state == "starting"
    job.run("running")
    found = job.status("RUNNING")
    assert (found.state, found.run["step"], found.updated_age_s) == ("running", 3, 1.0)
    job.run("stopped")
    assert job.status("RUNNING").state == "stopping"
    job.decide("requeue", "stopped and saved: time limit (SIGUSR2)")
    assert job.status("COMPLETING").state == "stopping"
    found = job.status("PENDING", reason="BeginTime")
    assert (found.state, found.reason) == ("requeued", "BeginTime")
    assert [one["reason"] for one in found.requeues] == ["stopped and saved: time limit (SIGUSR2)"]
    job.start(1, time=950.0)
    assert job.status("RUNNING").state == "starting"  # the run's status is of the start before
    job.run("running", started=955.0)
    found = job.status("RUNNING")
    assert (found.state, len(found.requeues)) == ("running", 1)
    job.run("done", started=955.0)
    job.decide("finish", "done", 1)
    assert job.status("COMPLETING").state == "done"
    assert job.status("COMPLETED").state == "done"
    assert job.status(None).state == "done"
    assert job.status(None).scheduler == "FORGOTTEN"


def test_a_lost_node_leaves_a_start_without_a_word(job: Job) -> None:
    job.start(0)
    job.start(1, time=950.0)
    assert (
        job.status("RUNNING").requeues[0]["reason"]
        == "ended without reporting: its node was lost, or its processes were killed at once"
    )


def test_history_names_the_node_that_did_not_report_where_another_did(job: Job) -> None:
    """SLURM requeued the job before the other could decide."""
    job.start(0)
    job.start(1)
    attempt = Attempt(job.log_dir / "attempt-000")
    write_json(attempt.folder / "start.json", {"start": "12.1", "time": 900.0, "nodes": ["n1", "n2"]})
    assert job.status("RUNNING").requeues[0]["reason"].startswith("ended without reporting")
    attempt.write_outcome(Outcome(node=1, name="n2", kind="error", time=901.0, message="connection closed"))
    assert job.status("RUNNING").requeues[0]["reason"] == "node n1: it has not reported (lost?)"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("CANCELLED AT 2026-11-24T12:21:27 DUE TO PREEMPTION ***", "killed by SLURM, due to preemption"),
        ("CANCELLED AT 2026-11-24T12:21:27 DUE TO NODE FAILURE, SEE", "node n1: it has not reported (lost?)"),
    ],
)
def test_what_slurm_told_counts_more_than_a_guess(job: Job, said: str, reason: str) -> None:
    job.start(0)
    job.start(1)
    attempt = Attempt(job.log_dir / "attempt-000")
    write_json(attempt.folder / "start.json", {"start": "12.1", "time": 900.0, "nodes": ["n1", "n2"]})
    attempt.write_outcome(Outcome(node=1, name="n2", kind="killed", time=901.0))
    (job.folder / "logs" / "tasks").mkdir()
    words = f"start 0 of job 12 on node n2 (2 of 2)\nslurmstepd-n2: error: *** JOB 12 ON n1 {said}\n"
    (job.folder / "logs" / "tasks" / "12_0_log.out").write_text(words)
    assert job.status("RUNNING").requeues[0]["reason"] == reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("STEP 12.0 ON n1 CANCELLED AT 12:21 DUE TO JOB REQUEUE ***", "killed by SLURM, due to job requeue"),
        ("JOB 12 ON n1 CANCELLED AT 12:21 DUE TO JOB REQUEUE ***", "node n1: it has not reported (lost?)"),
        ("JOB 12 ON n1 CANCELLED AT 2026-11-24T12:21:27 DUE TO PREEMPTION ***", "killed by SLURM, due to preemption"),
    ],
)  # fmt: skip
def test_a_node_that_slurm_killed_is_not_called_lost(job: Job, said: str, reason: str) -> None:
    """Its peer decided before it was killed too. The batch script's own requeue says nothing of the cause."""
    job.start(0)
    job.start(1)
    attempt = Attempt(job.log_dir / "attempt-000")
    write_json(attempt.folder / "start.json", {"start": "12.1", "time": 900.0, "nodes": ["n1", "n2"]})
    attempt.write_outcome(Outcome(node=1, name="n2", kind="killed", time=901.0))
    job.decide("requeue", "node n1: it has not reported (lost?)")
    (job.folder / "logs" / "tasks").mkdir()
    words = f"start 0 of job 12 on node n2 (2 of 2)\nslurmstepd-n2: error: *** {said}\n"
    (job.folder / "logs" / "tasks" / "12_0_log.out").write_text(words)
    ended = job.status("RUNNING").requeues[0]
    assert (ended["reason"], ended["saved_step"]) == (reason, 5)
    shutil.rmtree(job.log_dir / "attempt-001")
    assert job.status("CANCELLED").reason == reason


def test_of_a_job_on_this_machine_nothing_is_said_of_slurm(job: Job) -> None:
    job.record["cluster"] = "local"
    job.start(0)
    found = job.status(None)
    assert (found.state, "SLURM" in found.reason) == ("lost", False)
    assert found.reason.startswith("its process has ended, and nothing records how")
    job.decide("requeue", "rank 1 on node n1: killed")
    write_json(job.folder / "status.json", {"state": "failed", "job": "12", "started": 905.0})
    found = job.status(None)
    assert found.reason.startswith(
        "rank 1 on node n1: killed; it has not been started again: submit it again"
    )


def test_what_slurm_told_of_a_killed_start(job: Job) -> None:
    job.start(0)
    job.start(1, time=950.0)
    job.start(2, time=960.0)
    tasks = job.folder / "logs" / "tasks"
    tasks.mkdir()
    first = (
        "start 0 of job 12 on node n1 (1 of 2)\n"
        "slurmstepd-n1: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-24T12:21:27 "
        "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n"
        "start 1 of job 12 on node n1 (1 of 2)\nslurmstepd-n1: error: Exceeded job memory limit\n"
    )
    second = (
        "start 0 of job 12 on node n2 (2 of 2)\nstart 1 of job 12 on node n2 (2 of 2)\n"
        "slurmstepd-n2: error: StepId=12.0 exceeded memory limit (569163776 > 314572800), being killed\n"
    )
    (tasks / "12_0_log.out").write_text(first)
    (tasks / "12_1_log.out").write_text(second)
    assert [one["reason"] for one in job.status("RUNNING").requeues] == [
        "killed by SLURM, due to node failure",
        "killed by SLURM: StepId=12.0 exceeded memory limit (569163776 > 314572800), being killed",
    ]


@pytest.mark.parametrize(
    ("scheduler", "state"),
    [
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "failed"),
        ("NODE_FAIL", "failed"),
        ("COMPLETED", "done"),
        (None, "lost"),
    ],
)
def test_ends_that_nobody_decided(job: Job, scheduler: str | None, state: str) -> None:
    job.start()
    job.run("running")
    assert job.status(scheduler).state == state


def test_a_failure_is_shown_with_rank_node_and_last_lines(job: Job) -> None:
    job.start()
    job.decide("fail", "rank 3 on node n2: ValueError: x")
    torn = {
        "node": 0,
        "name": "n1",
        "kind": "torn",
        "time": 1,
        "rank": None,
        "step": 0,
        "message": "",
        "last_lines": [],
    }
    error = {
        **torn,
        "node": 1,
        "name": "n2",
        "kind": "error",
        "rank": 3,
        "message": "x",
        "last_lines": ["a", "b"],
    }
    for one in (torn, error):
        write_json(job.log_dir / "attempt-000" / f"outcome-{one['node']}.json", one)
    found = job.status("FAILED")
    assert (found.state, found.reason) == ("failed", "rank 3 on node n2: ValueError: x")
    assert found.failure == {
        "node": "n2",
        "rank": 3,
        "kind": "error",
        "message": "x",
        "last_lines": ["a", "b"],
    }


def test_a_silent_run_is_told(job: Job) -> None:
    job.start()
    job.run("running", updated=900.0)
    assert job.status("RUNNING").message == "silent for 100 s: no heartbeat from process 0"


def test_the_status_of_another_job_of_the_same_run_counts_for_nothing(job: Job) -> None:
    job.run("done", last_checkpoint={"step": 9, "time": 990.0, "error": None})
    write_json(
        job.folder / "status.json", {**json.loads((job.folder / "status.json").read_text()), "job": "11"}
    )
    found = job.status("PENDING")
    assert found.state == "pending"
    assert found.checkpoint_age_s == 10.0


def test_slurm_that_does_not_answer_is_no_end(job: Job) -> None:
    job.start()
    job.run("running")
    found = job.status(None, problem="SLURM does not answer")
    assert (found.state, found.scheduler, found.message) == (
        "running",
        "UNREACHABLE",
        "SLURM does not answer",
    )


def test_an_old_job_does_not_show_the_figures_of_a_newer_one(job: Job) -> None:
    job.start()
    job.decide("requeue", "stopped and saved: time limit (SIGUSR2)")
    job.run("running", job="13", last_checkpoint={"step": 9, "time": 990.0, "error": None})
    found = job.status("CANCELLED")
    assert (found.state, found.run["step"], found.last_checkpoint) == ("cancelled", None, None)


def test_suspended_and_cancelled_while_it_waited(job: Job) -> None:
    assert job.status("SUSPENDED").state == "suspended"
    assert job.status(None).state == "gone"
    write_json(job.log_dir / "cancel.json", {"time": NOW, "now": False})
    assert job.status(None).state == "cancelled"


def test_what_slurm_has_forgotten_says_what_is_known(job: Job) -> None:
    """Before any start it was cancelled, as good as surely; after one it may have trained."""
    found = job.status(None)
    assert (found.state, found.ended, found.code) == ("gone", True, 1)
    assert "it never started: cancelled while it waited (scancel)? Submit it again" in found.reason
    job.start()
    found = job.status(None)
    assert found.state == "lost"
    assert "nothing records how it ended: submit it again to resume" in found.reason


def test_a_start_that_ended_before_its_own_log_shows_what_slurm_and_submitit_wrote(job: Job) -> None:
    tasks = job.folder / "logs" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "12_0_log.out").write_text("bash: apptainer: command not found\n\nslurmstepd: error: 127\n")
    lines = ["bash: apptainer: command not found", "slurmstepd: error: 127"]
    assert [list(job.status(state).output) for state in ("FAILED", None, "RUNNING")] == [lines, lines, []]
    assert job.status("FAILED").reason.startswith("it ended before dydist could report")
    assert job.status("NODE_FAIL").reason == "node fail"
    job.start()
    content = {"action": "fail", "code": 127, "reason": "exit code 127", "time": NOW, "saved_step": None}
    write_json(job.log_dir / "attempt-000" / "decision.json", content)  # as the batch script writes it
    assert list(job.status("FAILED").output) == lines
    job.decide("fail", "x")
    assert job.status("FAILED").output == ()


@pytest.mark.parametrize(
    ("scheduler", "reason", "state"),
    [
        ("FAILED", "stopped and saved: time limit (SIGUSR2)", "stopped"),  # a profile with requeue: false
        ("PREEMPTED", "stopped and saved: preempted (SIGTERM)", "stopped"),  # a partition that cancels
        ("TIMEOUT", "rank 1 on node n2: killed", "failed"),
        ("CANCELLED", "stopped and saved: SIGTERM", "cancelled"),
    ],
)
def test_a_start_that_was_to_come_back_and_did_not(job: Job, scheduler: str, reason: str, state: str) -> None:
    job.start()
    job.decide("requeue", reason)
    found = job.status(scheduler)
    advice = "" if state == "cancelled" else "; SLURM has not started it again: submit it again to resume"
    assert found.state == state
    assert found.reason.startswith(reason + advice)
    assert bool(advice) == found.reason.endswith("newest checkpoint")


def test_how_a_job_ended_is_known_after_slurm_has_forgotten_it(job: Job) -> None:
    """`statuses` wrote it down; of a start that came after that it says nothing."""
    write_json(job.log_dir / "ended.json", {"state": "CANCELLED", "nodes": "", "time": 800.0})
    found = job.status(None)
    assert (found.state, found.scheduler) == ("cancelled", "FORGOTTEN")
    assert job.status(None, problem="SLURM does not answer").state == "unknown"
    job.start(time=900.0)
    assert job.status(None).state == "lost"


def test_a_preflight_message_stands_there_once(job: Job) -> None:
    """Also where the node's name is longer than a line."""
    node = "gpu-" + "a" * 70
    message = f"preflight: node {node}: torch is 1.0, and 2.0 elsewhere"
    job.start()
    job.decide("fail", f"gave up after 3 starts in a row that saved nothing new; the last one: {message}")
    outcome = Outcome(node=0, name=node, kind="preflight", time=1.0, message=message, last_lines=("a",))
    Attempt(job.log_dir / "attempt-000").write_outcome(outcome)
    text = io.StringIO()
    Console(width=60, file=text).print(render([job.status("FAILED")]))
    joined = "".join(line.rstrip() + " " for line in text.getvalue().splitlines())
    assert joined.count("torch is 1.0") == 1
    assert joined.replace(" ", "").count(node) == 1


def test_the_table_comes_first_and_a_failure_is_one_line(job: Job) -> None:
    job.start()
    job.decide("fail", "rank 0 on node n1: ValueError: no such file")
    outcome = Outcome(
        node=0, name="n1", kind="error", time=1.0, rank=0, message="ValueError: no\nsuch file",
        last_lines=("Traceback (most recent call last):", "ValueError: no", "such file"),
    )  # fmt: skip
    Attempt(job.log_dir / "attempt-000").write_outcome(outcome)
    text = io.StringIO()
    Console(width=200, file=text).print(render([job.status("FAILED")]))
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("job ")
    assert lines[2].rstrip() == "12: error: rank 0 on node n1: ValueError: no such file"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("action", "code", "expected"), [("finish", 0, 0), ("fail", 2, 2), ("fail", 1, 1), ("cancel", 75, 75)]
)
def test_the_code_is_the_jobs_own(job: Job, action: str, code: int, expected: int) -> None:
    job.start()
    content = {"action": action, "code": code, "reason": "x", "time": NOW, "saved_step": 5}
    write_json(job.log_dir / "attempt-000" / "decision.json", content)
    assert job.status(None).code == expected


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PartitionTimeLimit", "can never start"), ("BadConstraints", "can never start"), ("BeginTime", "two minutes"),
        ("PartitionConfig", "never"),
        ("QOSMaxJobsPerUserLimit", "QOS"), ("AssocGrpCPULimit", "account"), ("Resources", "free nodes"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "down"), ("JobHeldUser", "scontrol release"), ("made up", ""),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "starts by"),
        ("deadline", "later one"), ("out of memory", "--mem"),
    ],
)  # fmt: skip
def test_slurms_reasons_in_words(reason: str, words: str) -> None:
    assert words in explain(reason)
    assert bool(words) == bool(explain(reason))


def test_a_job_that_was_given_the_number_of_ours_is_not_ours() -> None:
    """After a crash of the controller. On a site that takes comments away every number is believed."""
    folders = {"12": Path("/r/a"), "13_1": Path("/r/sweep/lr1"), "14": Path("/r/b"), "15": Path("/r/c")}
    comments = {
        "12": "dydist:/r/a",
        "13_1": "dydist:/r/sweep",
        "14": "dydist:/r/a",
        "15": "",
        "16": "dydist:/r/d",
    }
    found = {job: JobInfo(job=job, state="RUNNING", comment=comment) for job, comment in comments.items()}
    assert sorted(without_strangers(found, folders)) == ["12", "13_1", "15", "16"]
