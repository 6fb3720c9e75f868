"""Submitting runs through submitit: to SLURM, or to this machine by the same way."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dydist.config_reader import read_config
from dydist.errors import UserError
from dydist.jobs import launch, slurm
from dydist.jobs.files import read_json, write_json
from dydist.jobs.node import NodeTask
from dydist.jobs.profile import Profile
from dydist.jobs.registry import remember
from dydist.jobs.snapshot import package_root, record_environment, take_snapshot
from dydist.jobs.spec import JobSpec
from dydist.shipped import RECIPES, find_file

if TYPE_CHECKING:
    import submitit

Cluster = Literal["slurm", "local"]
LOCAL_MINUTES = 365 * 24 * 60
KILLED_TASK = [
    "code=$?",
    "# A node's task was killed, and could decide nothing: try again. Our own exit codes are all below 128.",
    'if [ $code -ge 128 ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then',
    '  scontrol requeue "$SLURM_JOB_ID"',
    "fi",
    "exit $code",
]
"""Shell lines after srun."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What goes to the cluster: one task (`dydist submit`) or several (`dydist sweep`), all with one profile.

    `folder` holds the snapshot and records; `submitit` what submitit writes: it is there before the job starts, since
    SLURM makes no folder for a job's output.
    """

    cluster: Cluster
    profile: Profile
    name: str
    comment: str
    folder: Path
    submitit: Path
    specs: tuple[JobSpec, ...]
    parallel: int | None = None


def new_submission_folder(parent: Path) -> Path:
    """A name of its own, in order of time; nothing is made."""
    return (parent / "submissions" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}").absolute()


def prepare_run(
    arguments: Sequence[str], profile: Profile, *, cluster: Cluster, folder: Path | None = None
) -> Submission:
    """A submission of one run. `arguments`: as for dydist/train.py, or with a recipe's path in front.

    The configuration is checked here, for the largest and the smallest world size. UserError: wrong, or the run has
    a job already that has not ended.
    """
    command_line = with_recipe(arguments)
    config = read_config(command_line)
    for nodes in {profile.nodes, profile.min_nodes or profile.nodes}:
        config.validate(world_size=nodes * profile.processes)
    run_dir = (Path(config.run.dir) / config.run.name).absolute()
    folder = folder or new_submission_folder(run_dir)
    spec = make_spec(profile, command_line, run_dir=run_dir, folder=folder)
    return Submission(
        cluster=cluster,
        profile=profile,
        name=config.run.name,
        comment=f"dydist:{run_dir}",
        folder=folder,
        submitit=run_dir / "logs" / "tasks",
        specs=(spec,),
    )


def prepare_preflight(
    profile: Profile, *, cluster: Cluster, parent: str, arguments: Sequence[str] = ()
) -> Submission:
    """A job that checks its nodes, and the place of checkpoints that `arguments` name, and trains nothing."""
    command_line = with_recipe(arguments)
    read_config(command_line)
    folder = new_submission_folder(Path(parent).absolute())
    return Submission(
        cluster=cluster,
        profile=profile,
        name="preflight",
        comment=f"dydist:{folder}",
        folder=folder,
        submitit=folder / "logs" / "tasks",
        specs=(make_spec(profile, command_line, run_dir=None, folder=folder),),
    )


def make_spec(profile: Profile, arguments: Sequence[str], *, run_dir: Path | None, folder: Path) -> JobSpec:
    """The job of one run, or with `run_dir` None of a preflight alone."""
    code = folder / "code"
    return JobSpec(
        run_dir=str(run_dir) if run_dir else "",
        log_dir=str((run_dir or folder) / "logs" / "{job}"),
        code=str(code),
        program=str(code / "dydist" / "train.py") if run_dir else "",
        arguments=tuple(_frozen_recipe(arguments, folder)),
        workdir=os.getcwd(),
        processes_per_node=profile.processes,
        cpu=profile.cpu,
        python=profile.python or sys.executable,
        interface=profile.interface,
        env={name: str(value) for name, value in profile.env.items()},
        preflight=profile.preflight,
        start_timeout_s=profile.start_timeout_s,
        hang_timeout_s=profile.hang_timeout_s,
        max_stalled=profile.max_stalled,
    )


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """`RECIPE --a.b c` as `--config RECIPE --a.b c`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--config", *arguments]
    return list(arguments)


def _frozen_recipe(arguments: Sequence[str], folder: Path) -> list[str]:
    """The same command line with the recipe that is copied into `folder`."""
    found = list(arguments)
    for index, word in enumerate(found):
        if word == "--config":
            found[index + 1] = str(folder / "recipe.yaml")
        elif word.startswith("--config="):
            found[index] = f"--config={folder / 'recipe.yaml'}"
    return found


def recipe_of(arguments: Sequence[str]) -> Path | None:
    """The file that --config names."""
    for index, word in enumerate(arguments):
        if word == "--config":
            return find_file(arguments[index + 1], RECIPES)
        if word.startswith("--config="):
            return find_file(word.partition("=")[2], RECIPES)
    return None


def refuse_second_job(run_dir: Path) -> None:
    """UserError where the run has a job in the queue already: both would write to one folder."""
    record = read_json(run_dir / "job.json")
    if record and record["cluster"] == "slurm" and slurm.available():
        job = str(record["job"])
        info = slurm.jobs([job]).get(job)
        if info is not None and info.state not in slurm.ENDED:
            raise UserError(
                f"run.name: {run_dir.name} has job {job} already ({info.state}); give another run.name, "
                f"or end that first: dydist cancel {job}"
            )


def submit(submission: Submission, *, recipe: Path | None) -> list[str]:
    """Take the snapshot, submit, and record; the job id of each spec."""
    if submission.cluster == "slurm" and not slurm.available():
        raise slurm.SlurmError(f"sbatch: {slurm.MISSING}")
    if submission.cluster == "local" and submission.profile.nodes != 1:
        raise UserError(
            f"--nodes: {submission.profile.nodes} is too many for --cluster local, which has this node only"
        )
    for spec in submission.specs:
        if spec.run_dir:
            refuse_second_job(Path(spec.run_dir))
    folder = submission.folder
    folder.mkdir(parents=True)
    take_snapshot(package_root(), folder)
    record_environment(folder)
    if recipe is not None:
        (folder / "recipe.yaml").write_bytes(recipe.read_bytes())
    submission.submitit.mkdir(parents=True, exist_ok=True)
    executor = build_executor(submission)
    tasks = [NodeTask(spec) for spec in submission.specs]
    try:
        if submission.cluster == "local":
            ids = [_submit_detached(executor, task) for task in tasks]
        elif len(tasks) == 1:
            ids = [str(executor.submit(tasks[0]).job_id)]
        else:
            ids = [str(job.job_id) for job in executor.submit_array(tasks)]
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "submitit":
            raise
        raise slurm.SlurmError(f"SLURM refused the job: {_stderr(str(error))}; see {folder}") from error
    for job, spec in zip(ids, submission.specs, strict=True):
        record = {
            "job": job,
            "cluster": submission.cluster,
            "name": submission.name,
            "run_dir": spec.run_dir,
            "log_dir": spec.log_dir.replace("{job}", job),
            "task_logs": str(submission.submitit),
            "submission": str(folder),
            "submitted": time.time(),
            "nodes": submission.profile.nodes,
            "min_nodes": submission.profile.min_nodes,
            "processes_per_node": spec.processes_per_node,
            "arguments": list(spec.arguments),
            "workdir": spec.workdir,
        }
        write_json(Path(spec.run_dir or folder) / "job.json", record)
        remember(record)
    return ids


def _submit_detached(executor: submitit.Executor, task: NodeTask) -> str:
    """Submit to the local executor from a session of its own.

    Its controller is a child of the process that submits: in our session it would end with the terminal, be reached
    by Ctrl-C, and hold our output open for whoever reads that.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.write(writer, str(executor.submit(task).job_id).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        job = answer.read()
    if os.waitpid(child, 0)[1] or not job:
        raise RuntimeError(f"submitit's local executor could not start the job in {executor.folder}")
    return job


def build_executor(submission: Submission) -> submitit.Executor:
    """The executor with every parameter set; it does not look whether SLURM is there."""
    import submitit

    class Slurm(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run needs no cluster, and a submission tells in our words that there is none

    profile, spec = submission.profile, submission.specs[0]
    words = ["env", f"--chdir={spec.code}", f"PYTHONPATH={spec.code}"]
    python = " ".join(
        [shlex.join(words), *([profile.container] if profile.container else []), shlex.quote(spec.python)]
    )
    if submission.cluster == "local":
        executor: submitit.Executor = submitit.LocalExecutor(submission.submitit, python=python)
        executor.update_parameters(
            timeout_min=LOCAL_MINUTES,
            gpus_per_node=profile.gpus_per_node,
            tasks_per_node=1,
            stderr_to_stdout=True,
            signal_delay_s=profile.warning_s,
        )
        return executor
    executor = Slurm(submission.submitit, python=python)
    executor.update_parameters(**sbatch_parameters(submission))
    return executor


def sbatch_parameters(submission: Submission) -> dict[str, Any]:
    """What submitit is told; anything else that sbatch knows goes through `additional_parameters`."""
    profile = submission.profile
    further: dict[str, Any] = {"time": profile.time, ("requeue" if profile.requeue else "no-requeue"): True}
    if profile.min_nodes is not None and profile.min_nodes != profile.nodes:
        further["nodes"] = f"{profile.min_nodes}-{profile.nodes}"
    further |= {name.replace("_", "-"): value for name, value in profile.sbatch.items() if value is not False}
    srun = ["--kill-on-bad-exit=1", *profile.srun]
    if profile.cpus_per_task is not None:
        srun.insert(
            1, f"--cpus-per-task={profile.cpus_per_task}"
        )  # srun no longer takes it from sbatch (22.05)
    setup = [f"module load {shlex.quote(module)}" for module in profile.modules]
    setup += [f"export {name}={shlex.quote(str(value))}" for name, value in profile.env.items()]
    return {
        "job_name": submission.name,
        "comment": submission.comment,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": profile.cpus_per_task,
        "gpus_per_node": None if profile.gres else profile.gpus_per_node or None,
        "gres": profile.gres,
        "mem": profile.mem,
        "exclusive": profile.exclusive or None,
        "signal_delay_s": profile.warning_s,
        "stderr_to_stdout": True,
        "setup": [*setup, *profile.setup] or None,
        "srun_args": srun,
        "teardown": KILLED_TASK if profile.requeue else None,
        "wckey": None,
        "array_parallelism": submission.parallel or 256,
        "additional_parameters": further,
    }


def sbatch_text(submission: Submission) -> str:
    """The file that sbatch gets."""
    executor: Any = build_executor(submission)
    if len(submission.specs) > 1:
        executor.parameters["map_count"] = len(submission.specs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def node_commands(spec: JobSpec, nodes: int) -> list[str]:
    """What each node will run, as shell lines; FIRST_NODE and PORT are known when the job starts."""
    port = {"--main_process_port=0": "--main_process_port=PORT"}
    places = [launch.Place(node=node, nodes=nodes, address="FIRST_NODE", port=0) for node in range(nodes)]
    return [shlex.join(port.get(word, word) for word in launch.command(spec, place)) for place in places]


def ask_slurm(text: str) -> str | None:
    """`sbatch --test-only`: when and where it would start; None where sbatch knows of no cluster.

    Raises SlurmError where SLURM would refuse it.
    """
    import subprocess

    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(text)
        file.flush()
        result = subprocess.run(
            ["sbatch", "--test-only", file.name], capture_output=True, text=True, timeout=60
        )
    words = " ".join(result.stderr.replace("sbatch: ", "").split())
    if "Could not establish a configuration source" in words:
        return None
    if result.returncode:
        raise slurm.SlurmError(f"SLURM would refuse it: {words}")
    return words


def _stderr(text: str) -> str:
    """What sbatch said, out of submitit's long report."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"sbatch: (error|fatal)", line)]
    return "; ".join(line.partition("sbatch: ")[2] for line in lines) or " ".join(text.split())[-300:]


def describe(submission: Submission) -> Mapping[str, Any]:
    """A dry run as data: the sbatch text, and each node's command of each run."""
    nodes = submission.profile.nodes
    return {
        "sbatch": sbatch_text(submission) if submission.cluster == "slurm" else "",
        "runs": [{"run_dir": spec.run_dir, "nodes": node_commands(spec, nodes)} for spec in submission.specs],
    }
