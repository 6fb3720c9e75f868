"""Submits runs through submitit, to SLURM or to this machine."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from dydist.config.reader import check_flags, read_config, read_yaml, redacted_arguments
from dydist.config.rules import check_config
from dydist.config.shipped import RECIPES, find_file
from dydist.errors import UserError
from dydist.jobs import launch, slurm, slurm_environment
from dydist.jobs.files import read_json, write_json
from dydist.jobs.spec import JobSpec
from dydist.jobs.submission import refusals
from dydist.jobs.submission.arrays import QueuedError, hand_over
from dydist.jobs.submission.job_secrets import in_environment, job_variables, open_env, recipe_to_write
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.registry import registry_file, remember
from dydist.jobs.submission.sbatch import Cluster, Submission, sbatch_text
from dydist.jobs.submission.script import ask, copied_to
from dydist.jobs.submission.snapshot import copy_module, package_root, record_environment, take_snapshot
from dydist.machine import try_to_write
from dydist.text.display import tell

_ROOM = 1 << 16
"""The least free space for the records of one run, in bytes."""
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Errors that come from the disk even if they name no file."""
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
"""The names of submitit's files before it knows the job's number."""


def new_submission_folder(parent: Path) -> Path:
    """A new path for a submission; names sort by time. The folder is not created."""
    return (parent / "submissions" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}").absolute()


def prepare_run(
    arguments: Sequence[str], profile: Profile, *, cluster: Cluster, folder: Path | None = None
) -> Submission:
    """A submission of one run. `arguments`: those of dydist/train.py, optionally with a recipe's path in front; or the
    path of a program that calls `dydist.train`, and such flags.

    Raises UserError if the configuration is wrong for the largest or the smallest world size.
    """
    command_line, script = flags_of(arguments), None
    if (program := program_of(arguments)) is None:
        config = read_config(command_line)
    else:
        try:
            check_flags(command_line)
        except UserError as error:
            raise UserError(
                f"submit: {program} is submitted with flags of dydist alone, and not with its own: {error}"
            ) from None
        config, script = ask(program, command_line)
    for nodes in {profile.nodes, profile.min_nodes or profile.nodes}:
        check_config(config, world_size=nodes * profile.processes)
    run_dir = config.run.folder.absolute()
    folder = folder or new_submission_folder(run_dir)
    spec = make_spec(profile, command_line, run_dir=run_dir, folder=folder, script=program)
    return Submission(
        cluster=cluster,
        script=script,
        profile=profile,
        name=config.run.name,
        comment=f"dydist:{run_dir}",
        folder=folder,
        submitit=run_dir / "logs" / "tasks",
        specs=(spec,),
        secrets=job_variables(config, profile),
    )


def prepare_preflight(
    profile: Profile, *, cluster: Cluster, parent: str, arguments: Sequence[str] = ()
) -> Submission:
    """A submission that checks nodes, and the checkpoint store that `arguments` name. It trains nothing."""
    command_line = with_recipe(arguments)
    config = read_config(command_line)
    folder = new_submission_folder(Path(parent).absolute())
    return Submission(
        cluster=cluster,
        profile=profile,
        name="preflight",
        comment=f"dydist:{folder}",
        folder=folder,
        submitit=folder / "logs" / "tasks",
        specs=(make_spec(profile, command_line, run_dir=None, folder=folder),),
        secrets=job_variables(config, profile),
    )


def make_spec(
    profile: Profile,
    arguments: Sequence[str],
    *,
    run_dir: Path | None,
    folder: Path,
    script: Path | None = None,
) -> JobSpec:
    """The specification of one run's job; with `run_dir` None, of a preflight. It holds no secrets.

    `script`: the program in place of dydist/train.py.
    """
    code = folder / "code"
    program = code / "dydist" / "train.py" if script is None else copied_to(script, folder)
    return JobSpec(
        run_dir=str(run_dir) if run_dir else "",
        log_dir=str((run_dir or folder) / "logs" / "{job}"),
        code=str(code),
        program=str(program) if run_dir else "",
        arguments=tuple(redacted_arguments(_frozen_recipe(arguments, folder))),
        workdir=os.getcwd(),
        processes_per_node=profile.processes,
        cpu=profile.cpu,
        python=profile.python or sys.executable,
        interface=profile.interface,
        env=open_env(profile),
        preflight=profile.preflight,
        start_timeout_s=profile.start_timeout_s,
        hang_timeout_s=profile.hang_timeout_s,
        max_stalled=profile.max_stalled,
        restart_in_place=profile.restart_in_place,
        warning_s=profile.effective_warning_s,
    )


def program_of(arguments: Sequence[str]) -> Path | None:
    """The program that stands in front of `arguments`, or None."""
    return Path(arguments[0]) if arguments and arguments[0].endswith(".py") else None


def flags_of(arguments: Sequence[str]) -> list[str]:
    """`arguments` without their program and a `--` after it, or with their recipe as `--config`."""
    if program_of(arguments) is None:
        return with_recipe(arguments)
    return list(arguments[2:] if arguments[1:2] == ["--"] else arguments[1:])


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """`RECIPE --a.b c` as `--config RECIPE --a.b c`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--config", *arguments]
    return list(arguments)


def _frozen_recipe(arguments: Sequence[str], folder: Path) -> list[str]:
    """The command line with the recipe replaced by its copy in `folder`."""
    found = list(arguments)
    for index, word in enumerate(found):
        if word == "--config":
            found[index + 1] = str(folder / "recipe.yaml")
        elif word.startswith("--config="):
            found[index] = f"--config={folder / 'recipe.yaml'}"
    return found


def recipe_of(arguments: Sequence[str]) -> Path | None:
    """The file that --config names, or None."""
    for index, word in enumerate(arguments):
        if word == "--config":
            return find_file(arguments[index + 1], RECIPES)
        if word.startswith("--config="):
            return find_file(word.partition("=")[2], RECIPES)
    return None


def active_jobs(run_dirs: Iterable[Path], *, tries: int = slurm.TRIES) -> dict[Path, slurm.JobInfo]:
    """The jobs of these run folders that wait or run in SLURM's queue. Asks SLURM once."""
    if not slurm.available():
        return {}
    records = {run_dir: read_json(run_dir / "job.json") for run_dir in run_dirs}
    ids = {run_dir: str(one["job"]) for run_dir, one in records.items() if one and one["cluster"] == "slurm"}
    known = slurm.jobs(list(ids.values()), tries=tries) if ids else {}
    known = slurm.without_strangers(known, {job: run_dir for run_dir, job in ids.items()})
    found = {run_dir: known[job] for run_dir, job in ids.items() if job in known}
    return {run_dir: info for run_dir, info in found.items() if info.state not in slurm.ENDED}


def refuse_second_job(run_dirs: Iterable[Path]) -> None:
    """Raise UserError if a run already has a job in the queue: both would write to one folder."""
    for run_dir, info in active_jobs(run_dirs).items():
        raise UserError(
            f"run.name: {run_dir.name} has job {info.job} already ({info.state}); give another run.name, "
            f"or end that job first: dydist cancel {info.job}"
        )


def submit(submission: Submission, *, recipe: Path | None) -> list[str]:
    """Take the snapshot, submit, and record the jobs; returns the job id of each spec."""
    if submission.cluster == "slurm" and not slurm.available():
        raise slurm.SlurmError(f"sbatch: {slurm.MISSING}")
    if submission.cluster == "local" and submission.profile.nodes != 1:
        raise UserError(
            f"--nodes: {submission.profile.nodes} is too many for --cluster local, which has only this node"
        )
    refuse_second_job(Path(spec.run_dir) for spec in submission.specs if spec.run_dir)
    made = [path for path in _folders(submission) if not path.exists()]
    try:
        _fill_folder(submission, recipe)
    except BaseException as error:
        _forget(submission, made)
        _tell_disk(error, submission)
        raise
    before = set(submission.submitit.iterdir())
    try:
        # submitit prints sbatch's message, which is part of the error below
        said = redirect_stderr(io.StringIO())
        with slurm_environment.clean(), in_environment(submission.secrets), said:
            ids = hand_over(submission)
    except QueuedError:
        raise
    except Exception as error:
        _forget(submission, made, before)
        _tell_disk(error, submission)
        if type(error).__module__.partition(".")[0] != "submitit":
            raise
        reason = refusals.explain(str(error), submission.profile)
        raise slurm.SlurmError(f"SLURM refused the job: {reason}") from error
    for job, spec in zip(ids, submission.specs, strict=True):
        record = {
            "job": job,
            "cluster": submission.cluster,
            "name": _run_name(submission, spec),
            "run_dir": spec.run_dir,
            "log_dir": spec.log_dir.replace("{job}", job),
            "task_logs": str(submission.submitit),
            "submission": str(submission.folder),
            "submitted": time.time(),
            "nodes": submission.profile.nodes,
            "min_nodes": submission.profile.min_nodes,
            "processes_per_node": spec.processes_per_node,
            "arguments": list(spec.arguments),
            "workdir": spec.workdir,
        }
        place = Path(spec.run_dir or submission.folder)
        with telling(job, place / "job.json", "`dydist status` finds it only by its number"):
            write_json(place / "job.json", record)
        with telling(job, registry_file(), f"name its folder instead: dydist status {place}"):
            remember(record)
    return ids


@contextmanager
def telling(job: str, file: Path, instead: str) -> Iterator[None]:
    """Print an OSError raised within instead of raising it: the job is queued, and its number must be shown."""
    try:
        yield
    except OSError as error:
        tell(f"job {job} is submitted, but {file} cannot be written ({error.strerror}); {instead}")


def _fill_folder(submission: Submission, recipe: Path | None) -> None:
    """Create a submission's folder with the code and the recipe, and submitit's folder; check that there is space."""
    folder = submission.folder
    folder.mkdir(parents=True)
    content = None if recipe is None else recipe_to_write(recipe)
    hidden = {} if recipe is None or content == recipe.read_bytes() else {recipe: content or b""}
    take_snapshot(package_root(), folder, instead=hidden)
    for name, field in _own_modules(submission, recipe).items():
        copy_module(name, folder / "code", field=field)
    if submission.script is not None:
        submission.script.copy(folder)
    record_environment(folder)
    if content is not None:
        (folder / "recipe.yaml").write_bytes(content)
    submission.submitit.mkdir(parents=True, exist_ok=True)
    # the job unpickles a file from here, so nobody else may write to it
    submission.submitit.chmod(0o700)
    try_to_write(submission.submitit, _ROOM * (1 + len(submission.specs)))


def _own_modules(submission: Submission, recipe: Path | None) -> dict[str, str]:
    """The top-level modules of functions in the recipe and the flags of each run, and the field that names each."""
    given = {} if recipe is None else read_yaml(recipe)
    found: dict[str, str] = {}
    for field in ("model.factory", "data.factory", "train.loss"):
        section, _, key = field.partition(".")
        factories = {given.get(section, {}).get(key)}
        for spec in submission.specs:
            words = [word for argument in spec.arguments for word in argument.split("=", 1)]
            factories |= {value for flag, value in pairwise(words) if flag == f"--{field}"}
        found |= {factory.partition(":")[0].partition(".")[0]: field for factory in factories if factory}
    return found


def _tell_disk(error: BaseException, submission: Submission) -> None:
    """Raise UserError if `error` says that the run folder cannot be written."""
    if not isinstance(error, OSError):
        return
    top = submission.folder.parents[1]
    named = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
    if (not named and error.errno in _DISK_ERRORS) or any(
        path.is_relative_to(top) or top.is_relative_to(path) for path in named
    ):
        field = "run.dir" if submission.specs[0].run_dir else "--folder"
        raise UserError(
            f"{field}: cannot write {top} ({error.strerror or error}); give a folder that can be written"
        ) from error


def _run_name(submission: Submission, spec: JobSpec) -> str:
    """A run's name; in a sweep SWEEP/RUN."""
    own = Path(spec.run_dir).name
    return submission.name if own in ("", submission.name) else f"{submission.name}/{own}"


def _folders(submission: Submission) -> list[Path]:
    """The folders that a submission needs and all their parents, deepest first."""
    ends = (submission.folder, submission.submitit)
    found = {path for end in ends for path in (end, *end.parents)}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _forget(submission: Submission, made: Sequence[Path], before: Collection[Path] | None = None) -> None:
    """Remove the files of a failed submission.

    `made`: the folders that it created, deepest first. `before`: the content of submitit's folder before the
    submission; running jobs of the same sweep write there too. Errors are ignored, so that the error that caused the
    failure is reported.
    """
    shutil.rmtree(submission.folder, ignore_errors=True)
    with suppress(OSError):
        for path in set() if before is None else set(submission.submitit.iterdir()) - set(before):
            of_a_job = path.is_symlink() and path.exists()  # it points to the script of an accepted job
            if _TEMPORARY.fullmatch(path.name) and not of_a_job:
                path.unlink(missing_ok=True)
    for folder in made:
        with suppress(OSError):  # not empty
            folder.rmdir()


def node_commands(spec: JobSpec, nodes: int) -> list[str]:
    """The command of each node, as shell lines. FIRST_NODE and PORT are known only when the job starts."""
    port = {"--main_process_port=0": "--main_process_port=PORT"}
    places = [launch.NodeRank(node=node, nodes=nodes, address="FIRST_NODE", port=0) for node in range(nodes)]
    return [shlex.join(port.get(word, word) for word in launch.command(spec, place)) for place in places]


def describe(submission: Submission) -> Mapping[str, Any]:
    """The content of a dry run: the sbatch file, and for each run the command of each node."""
    nodes = submission.profile.nodes
    return {
        "sbatch": sbatch_text(submission) if submission.cluster == "slurm" else "",
        "runs": [{"run_dir": spec.run_dir, "nodes": node_commands(spec, nodes)} for spec in submission.specs],
    }
