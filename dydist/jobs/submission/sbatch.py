"""Creates the sbatch file of a submission with submitit, and asks SLURM to check it."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dydist.errors import UserError
from dydist.jobs import slurm
from dydist.jobs.batch_script import around_srun
from dydist.jobs.spec import JobSpec
from dydist.jobs.submission import refusals
from dydist.jobs.submission.job_secrets import open_env
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.script import Script

if TYPE_CHECKING:
    import submitit

Cluster = Literal["slurm", "local"]
LOCAL_MINUTES = 365 * 24 * 60


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission to the cluster: one task (`dydist submit`) or several (`dydist sweep`) with one profile.

    `folder` contains the snapshot and records; `submitit` the files of submitit, and is created before the job
    starts, since SLURM does not create a folder for a job's output.
    """

    cluster: Cluster
    profile: Profile
    name: str
    comment: str
    folder: Path
    submitit: Path
    specs: tuple[JobSpec, ...]
    parallel: int | None = None
    after: str | None = None
    """A job that must have ended, successfully or not, before this one starts."""
    script: Script | None = None
    """The program of one's own that is run, if it is not dydist/train.py."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables of the job that are never written."""

    def __post_init__(self) -> None:
        """Raise UserError if SLURM and submitit would not write to the named folder."""
        if any(sign in str(self.submitit) for sign in "%\\"):
            raise UserError(
                f"run.dir: {str(self.submitit)!r}, where SLURM writes what the job prints, holds % or \\, and SLURM "
                f"puts the job's number and the like in their place; give another run.dir or run.name"
            )


def build_executor(submission: Submission) -> submitit.Executor:
    """The executor with all parameters; does not check whether SLURM is installed."""
    import submitit

    class Slurm(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2  # a dry run needs no cluster, and a submission has its own error if there is none

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
    """The parameters for submitit; those it does not know are in `additional_parameters`."""
    profile = submission.profile
    further: dict[str, Any] = {"time": profile.time, ("requeue" if profile.requeue else "no-requeue"): True}
    ranged = profile.min_nodes is not None and profile.min_nodes != profile.nodes
    if ranged:
        further["nodes"] = f"{profile.min_nodes}-{profile.nodes}"
    if submission.after is not None:
        further["dependency"] = f"afterany:{submission.after}"
    further |= {name.replace("_", "-"): value for name, value in profile.sbatch.items() if value is not False}
    # The whole environment, even if the site or the profile has --export=NONE.
    srun = ["--kill-on-bad-exit=1", "--export=ALL"]
    if ranged:
        # With --ntasks-per-node, SLURM (22.05) uses as few nodes of a range as possible; without it, as many.
        srun.append("--ntasks-per-node=1")
    if profile.cpus_per_task is not None:
        # srun does not inherit it from sbatch since 22.05
        srun.append(f"--cpus-per-task={profile.cpus_per_task}")
    srun += profile.srun
    around = around_srun(submission.specs, tasks=submission.submitit, requeue=profile.requeue)
    setup = [f"module load {shlex.quote(module)}" for module in profile.modules]
    setup += [f"export {name}={shlex.quote(str(value))}" for name, value in open_env(profile).items()]
    return {
        "job_name": submission.name,
        "comment": submission.comment,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        **({} if ranged else {"ntasks_per_node": 1}),
        "cpus_per_task": profile.cpus_per_task,
        "gpus_per_node": None if profile.gres else profile.gpus_per_node or None,
        "gres": profile.gres,
        "mem": profile.mem,
        "exclusive": profile.exclusive or None,
        "signal_delay_s": profile.effective_warning_s,
        "stderr_to_stdout": True,
        "setup": [*around, *setup, *profile.setup],
        "srun_args": srun,
        "wckey": None,
        "array_parallelism": submission.parallel or 256,
        "additional_parameters": further,
    }


def sbatch_text(submission: Submission) -> str:
    """The text of the sbatch file."""
    executor: Any = build_executor(submission)
    if len(submission.specs) > 1:
        executor.parameters["map_count"] = len(submission.specs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def ask_slurm(text: str, profile: Profile) -> str | None:
    """`sbatch --test-only`: when and where the job would start, or no answer; None if no cluster is configured.

    `text`: the sbatch file of `profile`. Raises SlurmError if SLURM would refuse it.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            result = slurm.answer("sbatch", "--test-only", file.name, tries=1)
        except slurm.NoAnswerError as error:
            return str(error)
    words = " ".join(result.stderr.replace("sbatch: ", "").split())
    if "Could not establish a configuration source" in words:
        return None
    if result.returncode:
        raise slurm.SlurmError(f"SLURM would refuse it: {refusals.explain(words, profile)}")
    return words
