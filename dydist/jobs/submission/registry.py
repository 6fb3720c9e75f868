"""The list of jobs that this user has submitted. `dydist status` needs it once SLURM has forgotten a job.

The file ~/.local/state/dydist/jobs.jsonl (XDG_STATE_HOME) has one JSON line per job. It may be deleted: each run
folder has its own job.json, which `dydist status RUN` reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.jobs import slurm
from dydist.jobs.files import append_json, read_json, read_lines
from dydist.machine import user_folder
from dydist.named_run import is_run_folder, run_folder

_PART = r"[0-9]+(?:-[0-9]+(?::[1-9][0-9]*)?)?"
_RANGE = re.compile(rf"([0-9]+)_\[({_PART}(?:,{_PART})*)(?:%[0-9]+)?\]")
"""Several elements of an array, as squeue prints and scancel takes them: 42_[0,2], 42_[0-6:2,9%2]."""


def registry_file() -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state") / "jobs.jsonl"


def remember(record: Mapping[str, Any]) -> None:
    """Add a job."""
    file = registry_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    append_json(file, record)
    file.chmod(0o600)  # version 0.1 wrote command lines whole


def remembered() -> list[dict[str, Any]]:
    """All jobs, oldest first. If SLURM has used a number twice (a new controller), the newest job counts."""
    found = {str(record["job"]): record for record in read_lines(registry_file())}
    return sorted(found.values(), key=lambda record: float(record["submitted"]))


def without_job(what: str) -> Path | None:
    """The run folder that `what` names, if its run was started without a job; else None."""
    folder = run_folder(Path(what))
    job = any((folder / name).is_file() for name in ("job.json", "sweep.json"))
    return folder if is_run_folder(folder) and not job else None


def find(what: str) -> list[dict[str, Any]]:
    """The jobs that `what` names: a job id, an array's id, elements of it, a run folder, a sweep folder, a run's name.

    Elements are written as squeue prints them, `42_[0-2,5%2]`. The number that SLURM gives one element of an array
    means that element. The array's own number means the whole array, although SLURM also gives it to one element.
    Raises UserError if there is no such job.
    """
    folder = run_folder(Path(what))
    if record := read_json(folder / "job.json"):
        return [record]
    if sweep := read_json(folder / "sweep.json"):
        records = (read_json(Path(run) / "job.json") for run in sweep["runs"])
        return [record for record in records if record]
    known = remembered()
    named = [one for one in known if what in _names(one)]
    found = _of_job(what, known) or _elements(what, known) or _of_job(_element(what), known) or _newest(named)
    if not found:
        raise UserError(
            f"{what!r} is no job, run folder or run that was submitted from here; `dydist status` lists those that were"
        )
    return found


def _names(record: Mapping[str, Any]) -> set[str]:
    """The names of a job: its run's, its sweep's, and both together."""
    name = str(record["name"])
    return {name, name.partition("/")[0], Path(record["run_dir"] or "/").name}


def _newest(named: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest job of each run that shares a folder with the newest run: all runs of a sweep."""
    folders = [Path(one["run_dir"] or "/").parent for one in named]
    found = {one["run_dir"]: one for one, folder in zip(named, folders, strict=True) if folder == folders[-1]}
    return list(found.values())


def _of_job(job: str, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in known if job in (one["job"], str(one["job"]).partition("_")[0])]


def _elements(what: str, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The jobs of an array's elements, `42_[0-2,5%2]`; empty if `what` is no such list."""
    match = _RANGE.fullmatch(what)
    if match is None:
        return []
    ranges = [re.split("[-:]", part) for part in match[2].split(",")]
    tasks = [
        range(int(first), int((end or [first])[0]) + 1, int((end[1:] or [1])[0])) for first, *end in ranges
    ]

    def named(record: Mapping[str, Any]) -> bool:
        array, _, task = str(record["job"]).partition("_")
        return array == match[1] and task.isdecimal() and any(int(task) in numbers for numbers in tasks)

    return [one for one in known if named(one)]


def _element(number: str) -> str:
    """ARRAY_TASK of the array element with this job number; empty if SLURM knows of none."""
    if not number.isdecimal():
        return ""
    try:
        shown = slurm.show(number, tries=1)
    except slurm.SlurmError:  # no SLURM here, or no answer: it may still be a run's name
        return ""
    return f"{shown['ArrayJobId']}_{shown['ArrayTaskId']}" if "ArrayTaskId" in shown else ""
