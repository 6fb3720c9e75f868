"""Checks of a profile beyond types: ranges, variables, and options of sbatch that duplicate a field."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dydist.config.types import hints_of, shown, takes_text
from dydist.text.strict import whole_number

if TYPE_CHECKING:
    from dydist.jobs.submission.profile import Profile

_TIME = re.compile(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SOCKETS = re.compile(r"\(.*?\)")
"""The sockets of GPUs, as in `gpu:4(S:0-1)`."""
_LOWEST = {
    "nodes": 1, "min_nodes": 1, "processes_per_node": 1, "cpus_per_task": 1, "max_stalled": 1, "gpus_per_node": 0,
    "warning_s": 0,
}  # fmt: skip
_HIGHEST = {"warning_s": 65535}  # sbatch's own limit of --signal
_LARGEST = 100_000
"""Upper limit of other integers; a larger one is a mistake."""
_LONGEST_S = 10**7
_OURS = {
    "ntasks": "dydist always uses one task per node",
    "ntasks-per-node": "dydist always uses one task per node",
    "ntasks-per-gpu": "dydist always uses one task per node",
    "output": "logs lie in the run folder",
    "error": "logs lie in the run folder",
    "signal": "set warning_s",
    "requeue": "set requeue",
    "no-requeue": "set requeue",
    "clusters": "set SLURM_CLUSTERS, which status and cancel go by too",
    "comment": "dydist finds its jobs by it",
    "job-name": "a job has its run's name; set run.name",
    "array": "use dydist sweep",
    "gpus": "set gpus_per_node",
    "gpus-per-task": "set gpus_per_node",
    "gpus-per-socket": "set gpus_per_node",
    "wrap": "dydist writes the script",
    "parsable": "dydist reads what sbatch prints",
    "test-only": "use dydist submit --dry-run",
    "wait": "use dydist submit --wait",
}
"""Options that dydist sets itself, with the reason or the alternative."""
_EITHER = {"mem-per-cpu": "mem", "mem-per-gpu": "mem", "cpus-per-gpu": "cpus_per_task"}
"""Options that SLURM does not accept together with a field of the profile."""
_SHORT = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task",
    "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "i": "input",
    "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes",
    "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos",
    "S": "core-spec", "s": "oversubscribe", "t": "time", "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
"""sbatch's options of one letter, by their long names."""


def check_profile(profile: Profile) -> list[str]:
    """Every broken rule, one per line, each with its field's name."""
    return [
        *_ranges(profile),
        *_texts(profile),
        *_resources(profile),
        *_variables(profile.env),
        *_options(profile),
    ]


def _ranges(profile: Profile) -> Iterator[str]:
    for name, low in _LOWEST.items():
        value, high = getattr(profile, name), _HIGHEST.get(name, _LARGEST)
        if value is not None and value < low:
            yield f"{name}: {value} is not allowed; it must be at least {low}"
        elif value is not None and value > high:
            yield f"{name}: {value} is not allowed; it must be at most {high}"
    for name in ("start_timeout_s", "hang_timeout_s"):
        if not 0 < getattr(profile, name) <= _LONGEST_S:
            yield f"{name}: {getattr(profile, name)} is not allowed; it must be above 0, and at most {_LONGEST_S}"


def _texts(profile: Profile) -> Iterator[str]:
    for name, kind in hints_of(type(profile)).items():
        value = getattr(profile, name)
        if takes_text(kind) and value is not None and name != "description":
            if not value.strip():
                yield f"{name}: {value!r} is empty; give a value, or leave it out"
            elif _controls(value):
                yield f"{name}: {shown(value)} is not allowed; it must be one line"
    if profile.time.strip() and not _TIME.fullmatch(profile.time):
        yield f"time: {profile.time!r} is not allowed; use minutes, HH:MM:SS or D-HH:MM:SS (in quotes, for YAML)"


def _resources(profile: Profile) -> Iterator[str]:
    if profile.min_nodes is not None and profile.min_nodes > profile.nodes:
        yield f"min_nodes: {profile.min_nodes} is more than nodes={profile.nodes}; it must be at most that"
    if profile.processes_per_node is not None and not profile.cpu:
        yield "processes_per_node: on GPUs there is one process a GPU; leave it out, or set gpus_per_node: 0"
    if profile.gres is None:
        return
    kinds = [
        word.strip().removeprefix("gres:").split(":") for word in _SOCKETS.sub("", profile.gres).split(",")
    ]
    gpus = sum(_count(parts) for parts in kinds if parts[0] == "gpu")
    shared = any(parts[0] in ("mps", "shard") for parts in kinds)  # parts of a GPU
    if gpus != profile.gpus_per_node and not (shared and not gpus):
        asked = (
            f"asks for gpu:{gpus}"
            if gpus
            else "asks for no gpu, and is what SLURM gets in place of gpus_per_node"
        )
        yield (
            f"gpus_per_node: {profile.gpus_per_node} contradicts gres: {profile.gres!r}, which {asked}; "
            f"set gpus_per_node to {gpus}, or change gres"
        )


def _count(parts: list[str]) -> int:
    """GPUs of `gpu`, `gpu:2`, `gpu:a100:2` or `gpu:a100`."""
    number = whole_number(parts[-1])
    return 1 if number is None else number


def _variables(env: Mapping[str, Any]) -> Iterator[str]:
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            yield (
                f"env.{_plain(name)}: is not allowed as the name of a variable; "
                "use letters, digits and _, a digit not first"
            )
        elif value is None:
            yield f"env.{name}: has no value; give a text, or '' for an empty one"
        elif isinstance(value, (bool, list, dict)):
            yield f"env.{name}: a {type(value).__name__} is not allowed; it must be a text; put it in quotes"
        elif "\0" in str(value):
            yield f"env.{name}: holds a zero byte, which no variable can"


def _options(profile: Profile) -> Iterator[str]:
    own = {one.name.replace("_", "-") for one in dataclasses.fields(profile)}
    for option, value in profile.sbatch.items():
        if (problem := _option(option, own)) is not None:
            yield f"sbatch.{_plain(option)}: {problem}"
        elif value is None:
            yield f"sbatch.{option}: has no value; give one, or true for an option without"
        elif isinstance(value, (list, dict)):
            yield f"sbatch.{option}: {shown(value)} is not allowed; it must be one value, as sbatch takes it"
        elif _controls(str(value)):
            yield f"sbatch.{option}: {shown(value)} is not allowed; it must be one line"
        elif getattr(profile, _EITHER.get(option.replace("_", "-"), ""), None) is not None:
            yield f"sbatch.{option}: contradicts {_EITHER[option.replace('_', '-')]}; SLURM takes one of the two"
    for word in profile.srun:
        name = word.partition("=")[0].lstrip("-")
        if word.startswith("--") and name in _OURS:
            yield f"srun: {word!r} cannot be set here: {_OURS[name]}"
        elif word.startswith("-") and not word.startswith("--") and _SHORT.get(word[1:2], "") in _OURS:
            yield f"srun: {word!r} cannot be set here: {_OURS[_SHORT[word[1]]]}"


def _option(option: str, own: Collection[str]) -> str | None:
    """Why a name is not allowed as an option of sbatch, or None."""
    if option.startswith("-"):
        return f"write it without dashes before: {_plain(option.lstrip('-'))}"
    if not re.fullmatch("[A-Za-z0-9_-]+", option):
        return "is not the name of an option of sbatch"
    name = _SHORT.get(option, option.replace("_", "-"))
    if name in _OURS:
        return f"cannot be set here: {_OURS[name]}"
    if name in own:
        return f"is a field of its own; write '{name.replace('-', '_')}:' outside of sbatch"
    if option in _SHORT:
        return f"write its long name: {name}"
    # sbatch accepts prefixes of long names
    longer = next((one for one in sorted({*own, *_OURS}) if one.startswith(name)), None)
    return None if longer is None else f"is short for {longer}; {_option(longer, own)}"


def _controls(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def _plain(name: str) -> str:
    """A name for a message, escaped if necessary."""
    return name if name.isprintable() else repr(name)
