"""Which process this is: variables of accelerate, torchrun and srun, well-formed and not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.errors import UserError
from dydist.process.launcher import (
    Process,
    check_rendezvous,
    first_host,
    has_launcher,
    join_step,
    tasks_per_node,
    variables_of_srun,
)
from dydist.process.report import job_end
from helpers.support import REPOSITORY

TWO = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
LAUNCHED = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
}
STEP = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "gpu-a[01-02]",
}  # fmt: skip


def test_a_process_is_what_its_launcher_says_or_alone() -> None:
    assert Process.from_environment(TWO) == Process(rank=1, world_size=2, local_rank=1, local_world_size=2)
    assert Process.from_environment({}) == Process()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("text", ["abc", "", "-1", "1.0", "²", "１", "99999999999999999999", " 1", "0x1"])
def test_a_malformed_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: "):
        check_rendezvous(TWO | {name: text})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_what_several_processes_need_is_asked_for(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: is not set, but WORLD_SIZE is 2"):
        check_rendezvous({key: value for key, value in TWO.items() if key != name})


@given(name=st.sampled_from(sorted(TWO)), text=st.text(max_size=8))
def test_any_text_is_a_process_or_a_user_error(name: str, text: str) -> None:
    try:
        process = Process.from_environment(TWO | {name: text})
        check_rendezvous(TWO | {name: text})
    except UserError:
        return
    assert 0 <= process.rank < process.world_size


@pytest.mark.parametrize("text", ["soon", "", "nan", "inf"])
def test_an_end_of_the_job_that_is_no_time_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"^DYDIST_UNTIL: "):
        job_end({"DYDIST_UNTIL": text})


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "DYDIST_UNTIL"])
def test_training_says_it_in_one_line_before_anything_is_done(name: str, tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "dydist/train.py", "--config", "quickstart", "--run.dir", str(tmp_path / "runs")],
        env=os.environ | {name: "abc"}, cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dydist: {name}: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("environ", "launched"),
    [
        ({}, False),
        ({"ACCELERATE_LOG_LEVEL": "INFO"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, False),
        (LAUNCHED, True),
        ({"TORCHELASTIC_RUN_ID": "none"}, True),
    ],
)
def test_only_a_launcher_takes_its_processes_with_it(environ: dict[str, str], launched: bool) -> None:
    """PR_GET_PDEATHSIG: the signal that the kernel sends when the parent dies."""
    assert has_launcher(environ) is launched
    code = (
        "import ctypes, signal; from dydist.train import main; assert main(['--no.such', 'x']) == 2; "
        "number = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(number)); print(number.value)"
    )
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("ACCELERATE_", "TORCH"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environ, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == ("15" if launched else "0"), done.stderr


def test_a_task_of_srun_is_a_process_of_the_run() -> None:
    found = variables_of_srun(STEP)
    assert Process.from_environment(found) == Process(rank=2, world_size=3)
    assert found["MASTER_ADDR"] == "gpu-a01"
    first = variables_of_srun(STEP | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    assert Process.from_environment(first) == Process(world_size=3, local_world_size=2)
    assert (first["MASTER_ADDR"], first["MASTER_PORT"]) == (found["MASTER_ADDR"], found["MASTER_PORT"])


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},  # srun -n1 in a larger job
        {"SLURM_STEP_ID": ""},  # a batch script: PROCID 0 of 3, and one process
        {"SLURM_STEP_ID": "batch"},
        {"SLURM_STEP_ID": "4294967291"},  # SLURM_BATCH_SCRIPT
        {"SLURM_STEP_ID": "4294967290"},  # salloc's interactive step
        TWO,  # a launcher under srun, or a user who has set them
        LAUNCHED,  # accelerate launch with one process under srun
        {"TORCHELASTIC_RUN_ID": "none"},
        {"SLURM_PTY_PORT": "41000", "SLURM_TASK_PID": "1"},  # typed into the shell of srun --pty
    ],
)
def test_what_is_no_task_of_srun_stays_what_it_is(change: dict[str, str]) -> None:
    environ = {name: text for name, text in (STEP | change).items() if text}
    assert variables_of_srun(environ) == {}


def test_a_task_that_has_a_terminal_is_a_task() -> None:
    environ = STEP | {"SLURM_PTY_PORT": "41000", "SLURM_TASK_PID": str(os.getpid())}
    assert variables_of_srun(environ) == variables_of_srun(STEP)


def test_an_address_that_the_user_gives_stays() -> None:
    environ = STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    join_step(environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"], environ["RANK"]) == ("10.0.0.1", "4000", "2")


def test_a_first_node_without_an_address_is_named() -> None:
    with pytest.raises(UserError, match=r"^MASTER_ADDR: .*no-such-node\.invalid"):
        join_step(STEP | {"SLURM_STEP_NODELIST": "no-such-node.invalid,b"})


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu-a[01-03]", "gpu-a01"),
        ("gpu-a[7,9-11],b[1-2]", "gpu-a7"),
        ("r[1-2]n[05-06]", "r1n05"),
        ("a[01-02]-ib.cluster,c", "a01-ib.cluster"),
    ],
)
def test_the_first_of_a_node_list(text: str, first: str) -> None:
    assert first_host(text) == first


@pytest.mark.parametrize(
    ("text", "counts"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("", []), ("x", []), ("2(x", [])]
)
def test_tasks_per_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts
