"""Jobs from a program: `dydist.submit`, `dydist.status`, and programs that are submitted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import dydist
from dydist.errors import UserError
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.script import ask
from dydist.jobs.submission.submit import describe, prepare_run
from helpers.support import metrics

CPU = Profile(gpus_per_node=0, processes_per_node=2)
PROGRAM = """
import sys
import dydist
import beside.deep

def make(num_classes):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))

if __name__ == "__main__":
    settings = {"run.dir": beside.deep.RUNS, "data.name": "digits", "data.limit": 128, "train.epochs": 1}
    dydist.train(settings, sys.argv[1:], model=make)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program with a package beside it, in the working folder of another one."""
    folder = tmp_path / "programs"
    (folder / "beside").mkdir(parents=True)
    (folder / "my_train.py").write_text(PROGRAM)
    (folder / "beside" / "deep.py").write_text(f"RUNS = {str(tmp_path / 'runs')!r}\n")
    (folder / "beside" / "later.py").touch()
    (folder / "unused.py").touch()
    (folder / "yaml").mkdir()
    (folder / "yaml" / "data.py").touch()  # not the imported yaml
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder / "my_train.py"


def test_a_program_says_what_it_would_train_and_is_copied_with_its_modules(
    program: Path, tmp_path: Path
) -> None:
    program.chmod(0o600)
    with pytest.raises(
        UserError, match=r"^submit: .*my_train.py is submitted with flags of dydist alone.*--depth: ther"
    ):
        prepare_run([str(program), "--", "--depth", "3"], CPU, cluster="local")
    words = [str(program), "--", "--run.name", "mine", "--train.batch_size", "64"]
    submission = prepare_run(words, CPU, cluster="local")
    (spec,) = submission.specs
    assert spec.run_dir == str(tmp_path / "runs" / "mine")
    assert spec.arguments == ("--run.name", "mine", "--train.batch_size", "64")
    assert spec.program == str(submission.folder / "script" / "my_train.py")
    assert f"{spec.program} --run.name mine" in describe(submission)["runs"][0]["nodes"][0]
    assert submission.script is not None
    assert submission.script.copy(submission.folder) == Path(spec.program)
    assert Path(spec.program).stat().st_mode & 0o777 == 0o600
    copied = sorted(
        str(path.relative_to(submission.folder / "script")) for path in submission.folder.rglob("*.py")
    )
    assert copied == ["beside/deep.py", "beside/later.py", "my_train.py"]
    with pytest.raises(UserError, match=r"^train\.batch_size: 63 cannot be cut"):
        prepare_run([*words[:-1], "63"], CPU, cluster="local")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"^submit: there is no program .*; give the path of a Python file$"),
        ("print('trained')", r"ended with exit code 0 before it called dydist\.train; is the call in it"),
        (
            "import nowhere",
            r"ended with exit code 1 before .*\n.*\n  ModuleNotFoundError: No module named 'nowhere'$",
        ),
        (
            "import dydist\ndydist.train({'optim.rate': 1})",
            r"exit code 2 before .*\n.*optim\.rate: there is no such",
        ),
    ],
)
def test_a_program_that_cannot_be_submitted_is_named(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "my_train.py").write_text(text)
    with pytest.raises(UserError, match=f"(?s){told}"):
        ask(tmp_path / "my_train.py", [])


@pytest.mark.long  # a whole job
def test_a_program_and_a_mapping_are_submitted_and_watched(program: Path, tmp_path: Path) -> None:
    settings = {"run.dir": tmp_path / "runs", "run.name": "mapped", "train.max_steps": 1}
    settings |= {"data.name": "digits", "model.width": 0.0625}
    jobs = [
        dydist.submit(
            program, ["--run.name", "mine"], cluster="local", gpus_per_node=0, processes_per_node=2
        ),
        dydist.submit(settings, cluster="local", gpus_per_node=0),
    ]
    assert [job.run_dir.name for job in jobs] == ["mine", "mapped"]
    deadline = time.monotonic() + 400
    folders = [job.run_dir for job in jobs]
    while not all(one.ended for one in dydist.status(*folders)):
        assert time.monotonic() < deadline, dydist.status(*folders)
        time.sleep(0.5)
    found = dydist.status(*folders)
    assert [one.state for one in found] == ["done", "done"], found
    assert {one.job for one in dydist.status()} == {job.job for job in jobs}
    assert metrics(tmp_path / "runs" / "mine", "evaluation")
    with pytest.raises(UserError, match="is no job, run folder or run"):
        dydist.status("nowhere")


def test_a_wrong_setting_of_a_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^submit: node: a profile has no such field; did you mean nodes\?$"):
        dydist.submit("quickstart", node=2)
