"""Submissions that fail on the way: what SLURM has is cancelled or told, and only what is ours is removed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dydist.errors import UserError
from dydist.jobs.submission import arrays
from dydist.jobs.submission.arrays import QueuedError
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.sbatch import Submission
from dydist.jobs.submission.submit import _tell_disk, prepare_run, submit
from dydist.jobs.submission.sweep import prepare_sweep

PROFILE = Profile(gpus_per_node=0)


class Commands:
    """Stand-ins for SLURM's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.set("sbatch", "exit 1")
        self.set("scancel")

    def set(self, name: str, text: str = "") -> None:
        line = f'#!/bin/sh\necho "{name} $1" >> {self.folder}/called\n{text}\n'
        (self.folder / name).write_text(line)
        (self.folder / name).chmod(0o755)

    def called(self, name: str) -> list[str]:
        lines = (self.folder / "called").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(arrays.slurm, "max_array_size", lambda: 2)
    return Commands(tmp_path / "bin")


def one_run(tmp_path: Path) -> Submission:
    words = ["--run.dir", str(tmp_path / "runs"), "--run.name", "r"]
    return prepare_run(words, PROFILE, cluster="slurm")


UNWRITABLE = """mkdir "$(dirname "$1")/12_submission.sh"; echo Submitted batch job 12"""
"""sbatch takes the job, and then submitit cannot rename its file."""


def test_a_job_whose_files_cannot_be_written_is_cancelled(tmp_path: Path, commands: Commands) -> None:
    commands.set("sbatch", UNWRITABLE)
    submission = one_run(tmp_path)
    with pytest.raises(UserError, match=r"run\.dir: cannot write .*/runs/r .Is a directory"):
        submit(submission, recipe=None)
    assert commands.called("scancel") == ["12"]
    assert not submission.folder.exists()
    assert [path.name for path in submission.submitit.iterdir()] == ["12_submission.sh"]  # a folder, not ours


def test_where_it_cannot_be_cancelled_its_code_stays(tmp_path: Path, commands: Commands) -> None:
    commands.set("sbatch", UNWRITABLE)
    commands.set("scancel", "echo no >&2; exit 1")
    submission = one_run(tmp_path)
    with pytest.raises(
        QueuedError, match=r"the submission failed .* accepted job 12 and does not cancel it; .*: scancel 12$"
    ):
        submit(submission, recipe=None)
    assert (submission.folder / "code" / "dydist" / "train.py").exists()


@pytest.mark.parametrize(
    "said", ["echo queued", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1"]
)
def test_where_slurm_may_have_the_job_its_code_stays(tmp_path: Path, commands: Commands, said: str) -> None:
    commands.set("sbatch", said)
    submission = one_run(tmp_path)
    with pytest.raises(QueuedError, match=r"SLURM may have taken the job .*; see `squeue --me`"):
        submit(submission, recipe=None)
    assert (submission.folder / "code" / "dydist" / "train.py").exists()


def test_an_array_that_cannot_be_cancelled_keeps_no_other(tmp_path: Path, commands: Commands) -> None:
    number = f"number=$(grep -c sbatch {tmp_path}/bin/called)"
    third = '[ $number -le 2 ] || { echo "sbatch: error: no" >&2; exit 1; }'
    commands.set("sbatch", f"{number}\n{third}\necho Submitted batch job 1$number")
    commands.set("scancel", '[ "$1" != 11 ]')
    words = ["--run.dir", str(tmp_path / "runs")]
    submission, _ = prepare_sweep("s", words, PROFILE, grid={}, seeds=6, parallel=None)
    assert submission is not None
    told = r"failed \(sbatch: error: no\), but SLURM has accepted job 11 and does not .* scancel 11$"
    with pytest.raises(QueuedError, match=told):
        submit(submission, recipe=None)
    assert commands.called("scancel") == ["11", "12"]
    assert (submission.folder / "code" / "dydist" / "train.py").exists()
    left = sorted(path.name for path in submission.submitit.glob("1[12]_*"))
    assert left == ["11_0_submitted.pkl", "11_1_submitted.pkl", "11_submission.sh"]


def test_what_running_jobs_write_meanwhile_stays(tmp_path: Path, commands: Commands) -> None:
    """They share submitit's folder with the submission that is refused."""
    commands.set("sbatch", 'echo x > "$(dirname "$1")/7_0_log.out"; echo "sbatch: error: no" >&2; exit 1')
    submission = one_run(tmp_path)
    with pytest.raises(UserError, match="SLURM refused the job: error: no"):
        submit(submission, recipe=None)
    assert not submission.folder.exists()
    assert [path.name for path in submission.submitit.iterdir()] == ["7_0_log.out"]


def test_only_errors_of_a_disk_are_told_of_the_run_folder(tmp_path: Path) -> None:
    submission = one_run(tmp_path)
    _tell_disk(OSError(errno.EMFILE, "Too many open files"), submission)
    with pytest.raises(UserError, match=r"run\.dir: cannot write .*No space left"):
        _tell_disk(OSError(errno.ENOSPC, "No space left on device"), submission)
