"""The options of commands that start jobs: a profile, and options that override it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dydist.config.types import FilePath
from dydist.errors import UserError
from dydist.text.display import tell

if TYPE_CHECKING:
    from dydist.jobs.submission.profile import Profile

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Repeated = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""A flag that may be repeated, with several values each time."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Which nodes."""

    profile: FilePath | None = None
    """Settings of a site: NAME.yaml in ~/.config/dydist/ or slurm/, or a path (docs/slurm.md)."""
    nodes: int | None = None
    """Nodes."""
    gpus_per_node: int | None = None
    """GPUs, and so processes, of each node."""
    cpu: Flag = False
    """Use only CPUs."""
    processes_per_node: int | None = None
    """Processes of each node, with --cpu."""
    time: str | None = None
    """Time limit of one start: minutes, HH:MM:SS or D-HH:MM:SS."""
    partition: str | None = None
    """Partition."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have: `a100&ib`."""
    mem: str | None = None
    """Memory of each node: 64G; 0 is all of it."""
    cpus_per_task: int | None = None
    """CPU cores of each node."""
    gres: str | None = None
    """Generic resources instead of --gpus-per-node: gpu:a100:4."""
    reservation: str | None = None
    """Reservation."""
    sbatch: Repeated = ()
    """Any other options of sbatch, as NAME=VALUE or NAME; also several times."""

    def merged(self, **more: Any) -> Profile:
        """The profile, overridden by these options and `more`. Raises UserError, which names every mistake."""
        from dydist.jobs.submission.profile import load_profile, project_folder
        from dydist.jobs.submission.profile_rules import check_profile

        profile = load_profile(self.profile, project=project_folder())
        own = ("profile", "cpu", "sbatch", "reservation")
        options: dict[str, str | bool] = {}
        given = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name not in own and (value := getattr(self, field.name)) is not None
        } | more
        if self.cpu:
            if self.gpus_per_node:
                raise UserError(
                    f"--cpu: contradicts --gpus-per-node {self.gpus_per_node}; leave one of them out"
                )
            given["gpus_per_node"] = 0
        if self.reservation is not None:
            given["sbatch"] = {**profile.sbatch, "reservation": self.reservation}
        if self.sbatch:
            pairs = (word.partition("=") for words in self.sbatch for word in words)
            options = {key: text if equals else True for key, equals, text in pairs}
            given["sbatch"] = {**profile.sbatch, **given.get("sbatch", {}), **options}
        chosen = dataclasses.replace(profile, **given)
        if problems := check_profile(chosen):
            raise UserError(
                "\n".join(self._in_flags(problem, {*given} - {*more}, options) for problem in problems)
            )
        if chosen.note:
            tell(chosen.note)
        return chosen

    def _in_flags(self, problem: str, given: Collection[str], options: Collection[str]) -> str:
        """A message of check_profile; if the value is from the command line, with the option's name for the field's."""

        def instead(match: re.Match[str]) -> str:
            field = match[1] or match[2]
            return f"use --{field.replace('_', '-')}" if hasattr(self, field) else f"set {field} in a profile"

        name, _, text = problem.partition(": ")
        section, _, option = name.partition(".")
        if section == "sbatch" and option in options:
            text = re.sub(r"write '(\w+):' outside of sbatch|(?<=: )set ([a-z]\w*)", instead, text)
            return f"--sbatch {option}: {text}"
        if name == "sbatch.reservation" and self.reservation is not None:
            return f"--reservation: {text}"
        if name == "gpus_per_node" and self.cpu:
            return f"--cpu: {re.sub('set gpus_per_node to [0-9]+', 'leave it out', text.removeprefix('0 '))}"
        return f"--{name.replace('_', '-')}: {text}" if name in given else problem


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(NodeOptions):
    """Which nodes, and how a run is watched there."""

    min_nodes: int | None = None
    """Start with as few as these when no more are free."""
    preflight: Literal["off", "quick", "full"] | None = None
    """Checks of each node before every start."""
    hang_timeout_s: float | None = None
    """Seconds without a finished step after which a process counts as hung."""
