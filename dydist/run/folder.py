"""The run folder: created and claimed at a start; config.yaml has the configuration of the newest step."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dydist.checkpoint import StoredRun
from dydist.config import Config
from dydist.config.reader import to_dict
from dydist.data.description import FILE, DataDescription
from dydist.engine import World
from dydist.errors import UserError
from dydist.machine import try_to_write
from dydist.monitor.outputs.files import json_bytes, replace_file
from dydist.monitor.outputs.jsonlines import cut_after, read_lines
from dydist.monitor.outputs.log_owner import LogOwner
from dydist.storage.places import is_url, local_path
from dydist.text.redaction import redacted, scrub
from dydist.text.strict import dump_yaml, whole_number

RECORD = "run.json"
_PROBE = 1 << 16
"""Bytes of free space that a start needs in the run folder, for its first records."""


def make_run_folder(config: Config, world: World) -> Path:
    """Create the run folder on process 0; all processes raise UserError if it cannot be written."""
    run_dir = config.run.folder
    problem = None
    if world.rank == 0:
        try:
            check_run_folder(config)
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = _unwritable(run_dir, error)
        except UserError as error:
            problem = str(error)
    if (problem := world.broadcast(problem)) is not None:
        raise UserError(problem)
    return run_dir


def check_run_folder(config: Config) -> None:
    """Raise UserError if the run folder cannot be created or written to; leaves nothing behind."""
    run_dir = config.run.folder
    try:
        try_to_write(run_dir.absolute(), _PROBE)
    except OSError as error:
        raise UserError(_unwritable(run_dir, error)) from error


def _unwritable(run_dir: Path, error: OSError) -> str:
    return f"run.dir: cannot write {run_dir} ({error.strerror}); give a folder that can be written"


def write_description(run_dir: Path, data: DataDescription) -> None:
    """Write FILE, which describes the run's images for readers that do not have the images. Raises nothing."""
    with suppress(OSError):  # a later start writes it
        replace_file(run_dir / FILE, json_bytes(data.to_dict()))


def public_values(config: Config) -> dict[str, Any]:
    """All values by section, without secrets, as in config.yaml, state.json and the logs."""
    return to_dict(redacted(config))


class RunFolder:
    """The run that owns a run folder, and the step up to which the run is saved, as process 0 finds them at a start.

    RECORD contains the run's id and its store. Checkpoints contain the id too, so a run is recognised if its
    checkpoints were copied to another store, or if it resumes in a new folder.
    """

    def __init__(self, config: Config, run_dir: Path) -> None:
        self._resume, self._run_dir = config.checkpoint.resume, run_dir
        url = config.checkpoint.url or str(run_dir / "checkpoints")
        self._remote = is_url(url)
        self._place = scrub(url) if self._remote else local_path(url)
        self._log = LogOwner(config.monitor.logdir, config.checkpoint.storage_options)
        self._name = config.run.name
        self._id = ""
        self._anew = False

    def admit(self, held: StoredRun) -> str:
        """The run's id, if this folder and the store belong to one run or one of them is new.

        Raises UserError if the folder and the store belong to different runs, if the folder's run is saved up to a
        later step than the store's checkpoints, or if `monitor.logdir` belongs to another run.
        """
        record = _read_record(self._run_dir)
        saved, place = saved_history(self._run_dir)
        place = record.get("checkpoints") or place or str(self._run_dir / "checkpoints")
        own, other = record.get("run"), held.run
        strangers = own is not None and other is not None and own != other
        if saved > 0 and (
            strangers or not _reaches(saved, held.steps, self._resume, same=place == self._place)
        ):
            raise UserError(self._problem(saved, place, held, strangers=strangers))
        self._anew = strangers  # this folder's run saved nothing: the store's run continues in it
        self._id = other or own or _new_id(self._place if self._remote else None)
        self._log.check(self._id, self._name)
        return self._id

    def record(self) -> None:
        """Write the record. Call it once no check can refuse the start any more."""
        self._log.claim(self._id, self._run_dir)
        if self._anew:
            cut_after(self._run_dir / "metrics.jsonl", 0)
        replace_file(
            self._run_dir / RECORD, json_bytes({"run": self._id, "checkpoints": self._place}, indent=1)
        )

    def _problem(self, saved: int, place: str, held: StoredRun, *, strangers: bool) -> str:
        newest = max(held.steps, default=None)
        there = "no checkpoint" if newest is None else f"nothing after step {newest}"
        if strangers:
            why = (
                f"the checkpoints at {self._place} are another run's; give {place} as checkpoint.url, or another "
                "run.name"
            )
        elif place != self._place:
            why = (
                f"{self._place} holds {there} of it; give {place} as checkpoint.url, or copy it with "
                f"`dydist checkpoint copy {place} {self._place}`, or give another run.name"
            )
        else:
            back = "" if newest is None else f"checkpoint.resume={newest} to go back to that step, "
            why = (
                f"that place holds {there} now; bring its checkpoints back, or give {back}checkpoint.resume=never to "
                "start over, or another run.name"
            )
        return (
            f"run.name: {self._run_dir} belongs to a run that is saved up to step {saved} at {place}; {why}"
        )


def _reaches(saved: int, steps: Sequence[int], resume: str, *, same: bool) -> bool:
    """Whether a store with checkpoints of `steps` can continue a folder whose run is saved up to step `saved`.

    `same`: whether it is the store that the folder's record names; only then may `resume` be "never". If `resume`
    is a step, any store is accepted.
    """
    if whole_number(resume) is not None:
        return True
    return max(steps, default=-1) >= saved or (same and resume == "never")


def saved_history(run_dir: Path) -> tuple[int, str | None]:
    """From events.jsonl: the step up to which the folder's run is saved, and the store. A resume resets the step."""
    saved, place = 0, None
    for event in read_lines(run_dir / "events.jsonl"):
        if not isinstance(step := event.get("step"), int):
            continue
        if event.get("kind") == "start":
            saved = step
        elif event.get("kind") == "checkpoint" and event.get("error") is None:
            saved, place = max(saved, step), event.get("url")
    return saved, place


def _read_record(run_dir: Path) -> dict[str, str]:
    try:
        values = json.loads((run_dir / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return (
        {name: value for name, value in values.items() if isinstance(value, str)}
        if isinstance(values, dict)
        else {}
    )


def _new_id(remote: str | None) -> str:
    """The id of a new run. For a remote store it is derived from the URL, so all nodes agree before a first save."""
    return uuid.uuid4().hex if remote is None else hashlib.sha256(remote.encode()).hexdigest()[:32]


class Provenance:
    """Writes config.yaml, the configuration of the run's newest step.

    `values`: this start's configuration, from `public_values`. `start`: the step from which it resumes. A new run
    writes the file at once; a resumed run after its first step, since no step has used the configuration before.
    """

    def __init__(
        self, run_dir: Path, values: Mapping[str, Any], *, start: int, tell: Callable[[str], None]
    ) -> None:
        self._run_dir, self._values, self._start, self._tell = run_dir, values, start, tell
        self._written = self._told = False
        if start == 0:
            self._write()

    def reached(self, step: int) -> None:
        """Call it after each step; it writes once."""
        if not self._written and step > self._start:
            self._write()

    def _write(self) -> None:
        try:
            replace_file(self._run_dir / "config.yaml", dump_yaml(self._values).encode())
            self._written = True
        except OSError as error:  # a full disk may have space at the next step; training continues
            if not self._told:
                self._tell(f"config.yaml cannot be written ({error.strerror}); trying again after every step")
            self._told = True
