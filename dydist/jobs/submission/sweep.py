"""Sweeps: a grid of fields, times seeds, submitted as a job array. Runs that are done are left out."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dydist.config.reader import fields, read_config, read_value
from dydist.config.rules import check_config
from dydist.config.types import folder_name_problem
from dydist.errors import UserError
from dydist.jobs import slurm
from dydist.jobs.files import read_json, write_json
from dydist.jobs.submission import submit as jobs
from dydist.jobs.submission.job_secrets import job_variables
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.sbatch import Submission
from dydist.text.display import tell
from dydist.text.redaction import redact_url

Values = frozenset[tuple[str, Any]]
"""Fields and their values, converted to the types of the schema."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its name, and the flags that it adds to the common ones."""

    name: str
    flags: tuple[str, ...]
    values: Mapping[str, str]


def parse_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """Parse `optim.lr=0.05,0.1` into {"optim.lr": ["0.05", "0.1"]}.

    Of equal values (`1e-3,0.001`) the first is kept, and a line reports it. Raises UserError for an unknown field, a
    field without values, a field given twice, and fields that cannot be swept.
    """
    known = {path for path, _, _ in fields()}
    grid: dict[str, list[str]] = {}
    for word in words:
        field, equals, text = word.partition("=")
        values = _values(text)
        if not equals or not all(values):
            raise UserError(
                f"--grid: {word!r} is not FIELD=VALUE,VALUE…; write for example optim.lr=0.05,0.1"
            )
        if field not in known:
            raise UserError(f"--grid: there is no field {field!r}; `dydist/train.py --help` lists all")
        if field in grid:
            raise UserError(
                f"--grid: {field} is there twice; give all its values in one, {field}=VALUE,VALUE…"
            )
        if field in ("run.name", "run.dir", "seed"):
            raise UserError(
                f"--grid: {field} cannot be swept; the sweep names its runs, and --seeds counts seeds"
            )
        if field == "checkpoint.storage_options" or any(redact_url(value) != value for value in values):
            raise UserError(
                f"--grid: {field} holds secrets, and a grid's values name folders; give it after -- for all runs"
            )
        grid[field] = _distinct(field, values)
    return grid


def _distinct(field: str, values: Sequence[str]) -> list[str]:
    """The values without duplicates. A line reports each duplicate."""
    first: dict[Any, str] = {}
    for value in values:
        same = first.setdefault(read_value(field, value), value)
        if same is not value:
            tell(f"--grid: {field}: {same} and {value} are the same value, and so one run")
    return list(first.values())


def _values(text: str) -> list[str]:
    """Split at commas, but not within brackets: `[10,20],[15,25]` is two values."""
    return [value.strip() for value in re.split(r",(?![^\[]*\])", text)]


def points(grid: Mapping[str, Sequence[str]], seeds: int) -> Iterator[Point]:
    """All combinations, seeds innermost. A name contains what differs: `lr0.05-kernels2-seed0`."""
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is not allowed; it must be at least 1")
    for combination in itertools.product(*grid.values()):
        for seed in range(seeds):
            values = {**dict(zip(grid, combination, strict=True)), "seed": str(seed)}
            flags = [word for field, value in values.items() for word in (f"--{field}", value)]
            yield Point(_name(values), tuple(flags), values)


def _named_as_before(found: Iterable[Point], sweep_dir: Path) -> Iterator[Point]:
    """The same points, each with the name that it had in an earlier submission of the sweep.

    That submission may have written a value differently (`1e-3`, `0.001`), or the fields in another order. Raises
    UserError if two runs would share a folder.
    """
    before = _earlier(sweep_dir)
    names = {key: name for name, key in before.items()}
    for point in found:
        key = _key(point.values)
        name = point.name if point.name in before else names.get(key, point.name)
        if before.setdefault(name, key) != key:
            raise UserError(
                f"--grid: two runs would have the folder {sweep_dir / name}, because a folder's name contains only "
                "a value's letters, digits, dots and signs; put one of them into a sweep with another --name"
            )
        yield replace(point, name=name)


def _earlier(sweep_dir: Path) -> dict[str, Values]:
    """The runs of earlier submissions, and the values in which each differs."""
    found = {}
    for file in sweep_dir.glob("*/job.json"):
        own = _own_values((read_json(file) or {}).get("arguments", ()), file.parent.name)
        if own is not None:
            with suppress(UserError):  # submitted by a version with other fields
                found[file.parent.name] = _key(own)
    return found


def _own_values(words: Sequence[str], folder: str) -> dict[str, str] | None:
    """The fields in which a run of a sweep differs: `prepare_sweep` writes them after --run.name.

    An earlier version wrote them at the end, before --run.name. The ones that form the folder's name are then used.
    """
    named_last = words[-2:-1] == ["--run.name"]
    words = words[:-4] if named_last else words
    values: dict[str, str] = {}
    for flag, text in zip(
        words[-2::-2], words[::-2], strict=False
    ):  # from the end: the seed, then the fields
        if flag == "--run.name":
            return values
        values = {flag.removeprefix("--"): text, **values}
        if named_last and _name(values) == folder:
            return values
    return None


def _key(values: Mapping[str, str]) -> Values:
    """The values that identify a run of a sweep, independent of how they are written."""
    return frozenset((field, read_value(field, text)) for field, text in values.items())


def _name(values: Mapping[str, str]) -> str:
    return "-".join(f"{field.rpartition('.')[2]}{_safe(value)}" for field, value in values.items())


def prepare_sweep(
    name: str,
    arguments: Sequence[str],
    profile: Profile,
    *,
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    parallel: int | None,
    dry_run: bool = False,
) -> tuple[Submission | None, dict[str, list[str]]]:
    """The submission of the runs that are not done (None if all are), and the runs by kind.

    The kinds are `all`, `done`, `queued` and `submitted`. A queued run has a job that waits or runs, from an earlier
    submission of the sweep. A dry run needs no SLURM: if SLURM does not answer, no run counts as queued.
    Run folders are `<run.dir>/<name>/<point>`; `<run.dir>/<name>/sweep.json` lists them. Raises UserError if any
    configuration is wrong.
    """
    if problem := folder_name_problem(name):
        raise UserError(f"--name: {name!r} is not allowed; {problem}")
    common = jobs.with_recipe(arguments)
    for field, instead in (("seed", "--seeds counts them from 0"), ("run.name", "--name names the sweep")):
        if any(word.partition("=")[0].replace("-", "_") == f"__{field}" for word in common):
            raise UserError(f"--{field}: a sweep sets it for each run ({instead}); leave --{field} out")
    sweep_dir = (Path(read_config(common).run.dir) / name).absolute()
    folder = jobs.new_submission_folder(sweep_dir)
    found: dict[str, list[str]] = {"all": [], "done": [], "queued": [], "submitted": []}
    chosen = list(_named_as_before(points(grid, seeds), sweep_dir))
    run_dirs = [sweep_dir / point.name for point in chosen]
    try:
        active = jobs.active_jobs(run_dirs, tries=1 if dry_run else slurm.TRIES)
    except slurm.SlurmError as error:
        if not dry_run:
            raise
        tell(f"runs that have a job already are shown too, because SLURM cannot be asked: {error}")
        active = {}
    specs = []
    for point in chosen:
        line = [*common, "--run.dir", str(sweep_dir), "--run.name", point.name, *point.flags]
        config = read_config(line)
        check_config(config, world_size=profile.nodes * profile.processes)
        run_dir = sweep_dir / point.name
        found["all"].append(str(run_dir))
        if is_done(run_dir):
            found["done"].append(str(run_dir))
            continue
        if run_dir in active:
            found["queued"].append(str(run_dir))
            continue
        found["submitted"].append(str(run_dir))
        specs.append(jobs.make_spec(profile, line, run_dir=run_dir, folder=folder))
    if not specs:
        return None, found
    submission = Submission(
        cluster="slurm",
        profile=profile,
        name=name,
        comment=f"dydist:{sweep_dir}",
        folder=folder,
        submitit=sweep_dir / "logs" / "tasks",
        specs=tuple(specs),
        parallel=parallel,
        secrets=job_variables(read_config(common), profile),
    )
    return submission, found


def is_done(run_dir: Path) -> bool:
    """Whether the run's status.json says that it is done."""
    status = read_json(run_dir / "status.json")
    return status is not None and status.get("state") == "done"


def submit_sweep(
    submission: Submission,
    found: Mapping[str, Sequence[str]],
    grid: Mapping[str, Sequence[str]],
    seeds: int,
    recipe: Path | None,
) -> list[str]:
    """Submit the runs and write sweep.json; returns their job ids."""
    ids = jobs.submit(submission, recipe=recipe)
    sweep_dir = submission.folder.parents[1]
    content = {
        "name": submission.name,
        "runs": list(found["all"]),
        "grid": {field: list(values) for field, values in grid.items()},
        "seeds": seeds,
        "array": ids[0].partition("_")[0],
        "workdir": os.getcwd(),
    }
    with jobs.telling(
        ids[0], sweep_dir / "sweep.json", "`dydist status` knows its runs only by their folders"
    ):
        write_json(sweep_dir / "sweep.json", content)
    return ids


def _safe(value: str) -> str:
    """A value as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", value)
