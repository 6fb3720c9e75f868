"""Profiles: a site's settings in a YAML file, so that a submission only names the run.

`--profile NAME` means `NAME.yaml` in ~/.config/dydist/ or in the project's slurm/; a path is used unchanged.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from dydist.config.shipped import ROOT
from dydist.config.types import FilePath, convert, hints_of, normal_path
from dydist.errors import UserError
from dydist.jobs.spec import Preflight
from dydist.jobs.submission.profile_rules import check_profile
from dydist.machine import user_folder
from dydist.text.strict import TextError, load_yaml, load_yaml_words, read_user_text


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One site's settings. All fields are optional; flags of `dydist submit` override them."""

    description: str = ""
    """For readers of the file."""
    partition: str | None = None
    """Partition (queue)."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have, as sbatch takes them: `a100&ib`."""
    time: str = "24:00:00"
    """Time limit of one start, as sbatch takes it: minutes, HH:MM:SS or D-HH:MM:SS."""
    nodes: int = 1
    """Nodes of the job."""
    min_nodes: int | None = None
    """Start with as few nodes as this if no more are free. With reduce=exact, the results are equal bit for bit."""
    gpus_per_node: int = 1
    """GPUs, and thus processes, per node; 0 trains on CPUs."""
    processes_per_node: int | None = None
    """Processes per node on CPUs. Default: 1."""
    gres: str | None = None
    """Generic resources instead of --gpus-per-node, for sites that want them: `gpu:a100:4`."""
    cpus_per_task: int | None = None
    """CPU cores of each node's task."""
    mem: str | None = None
    """Memory of each node: `64G`; `0` is all of it."""
    exclusive: bool = False
    """Request whole nodes."""
    requeue: bool = True
    """Requeue the job after time limits, preemption and lost nodes."""
    warning_s: int = 120
    """Seconds before the time limit at which SLURM warns, at most a quarter of it; the final save must fit."""
    modules: tuple[str, ...] = ()
    """Environment modules to load."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job starts."""
    env: dict[str, Any] = field(default_factory=dict)
    """Environment variables of the job."""
    container: str | None = None
    """Prefix of the Python command: `apptainer exec --nv image.sif`."""
    python: FilePath | None = None
    """Python interpreter on the nodes. Default: the interpreter of `dydist submit`."""
    interface: str | None = None
    """Network interface between nodes (ib0, eno1). Default: the one with the default route."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch, without leading dashes: `reservation: maintenance`."""
    srun: tuple[str, ...] = ()
    """Additional arguments of srun."""
    preflight: Preflight = "quick"
    """Checks of each node before every start: off, quick, or full (also arithmetic and network)."""
    start_timeout_s: float = 1800.0
    """Seconds within which every process must finish its first step."""
    hang_timeout_s: float = 900.0
    """Seconds without a finished step, or block of an evaluation, after which a process counts as hung."""
    max_stalled: int = 3
    """Fail the job after this many stalled starts in a row."""
    restart_in_place: bool = True
    """After a killed or hung process, start again in the same allocation rather than requeue."""

    @property
    def cpu(self) -> bool:
        return self.gpus_per_node == 0

    @property
    def processes(self) -> int:
        """Processes of the run per node."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def effective_warning_s(self) -> int:
        """`warning_s`, at most a quarter of `time`, so that a start has time to train.

        SLURM may send it up to a minute earlier (sbatch(1), --signal).
        """
        return int(min(self.warning_s, seconds(self.time) / 4))

    @property
    def note(self) -> str:
        """A note on a setting that is not applied as written; empty if all are."""
        if self.effective_warning_s == self.warning_s:
            return ""
        return (
            f"warning_s: {self.warning_s} is too long for time {self.time!r}; SLURM warns "
            f"{self.effective_warning_s} s before the end, and the last save must fit in"
        )


def seconds(time: str) -> float:
    """Parse a time limit of sbatch (MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS); infinity for none."""
    if time.strip().upper() in ("", "0", "UNLIMITED", "INFINITE"):
        return inf
    days, dash, clock = time.rpartition("-")
    parts = [float(part) for part in clock.split(":")]
    if dash:
        hours, minutes, rest = [*parts, 0.0, 0.0][:3]
    elif len(parts) == 3:
        hours, minutes, rest = parts
    else:
        hours, (minutes, rest) = 0.0, [*parts, 0.0][:2]
    return float(days or 0) * 86400 + hours * 3600 + minutes * 60 + rest


def load_profile(name: str | None, *, project: Path, config_home: Path | None = None) -> Profile:
    """Load the profile `name`, a file, or the defaults if None. Raises UserError if it is unknown, unreadable or
    invalid."""
    if name is None:
        return Profile()
    folders = [config_home or default_config_home(), project / "slurm"]
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        file = Path(normal_path(name, "--profile"))
    else:
        file = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), Path())
    if not file.is_file():
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"--profile: there is no profile {name!r}{f'; did you mean {near[0]}?' if near else ''} "
            f"(known: {', '.join(known) or 'none'}; looked in {' and '.join(map(str, folders))})"
        )
    try:
        text = read_user_text(file)
        values = load_yaml(text, times_in_quotes=True)
        words = load_yaml_words(text)
    except OSError as error:
        raise UserError(f"--profile: {file} cannot be read ({error.strerror})") from error
    except TextError as error:
        raise UserError(f"--profile: {file} cannot be read as YAML: {error}") from error
    _as_written(values, words)
    return parse_profile(values, str(file))


def _as_written(values: Any, words: Any) -> None:
    """Set variables and options to their text in the file: 1.10 is not 1.1, and true not True."""
    for section in ("env", "sbatch"):
        found = values.get(section) if isinstance(values, dict) else None
        texts = words.get(section) if isinstance(words, dict) else None
        if isinstance(found, dict) and isinstance(texts, dict):
            for name, value in found.items():
                if isinstance(value, (int, float)) and not (section == "sbatch" and isinstance(value, bool)):
                    found[name] = texts.get(name, value)


def project_folder() -> Path:
    """The folder whose slurm/ has profiles: the working folder, or the package's own."""
    return Path.cwd() if (Path.cwd() / "slurm").is_dir() else ROOT


def default_config_home() -> Path:
    """~/.config/dydist, or the folder in XDG_CONFIG_HOME."""
    return user_folder("XDG_CONFIG_HOME", ".config")


def parse_profile(values: Any, where: str) -> Profile:
    """A profile from a YAML mapping. Raises UserError, which names every mistake."""
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: it holds a {type(values).__name__}; it must hold fields such as 'partition: gpu'"
        )
    hints = hints_of(Profile)
    found, problems = {}, []
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            advice = f"did you mean {near[0]}?" if near else "sbatch's own options go below 'sbatch:'"
            problems.append(f"{name}: a profile has no such field; {advice}")
            continue
        try:
            found[name] = convert(value, hints[name], str(name))
        except UserError as error:
            problems.append(str(error))
    if not problems:
        profile = Profile(**found)
        problems = check_profile(profile)
    if problems:
        raise UserError("\n".join(f"{where}: {one}" for one in problems))
    return profile
