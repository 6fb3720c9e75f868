"""`dydist checkpoint list|verify|prune|copy`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from dydist.config.types import Count, FilePath, Index
from dydist.text.display import cell, console, plain, show, tell

if TYPE_CHECKING:
    from dydist.checkpoint import CheckpointFolder, Retrying

Url = Annotated[FilePath, Positional, arg(metavar="FOLDER|URL")]


def list_checkpoints(url: Url, *, storage_options: str = "{}", json: bool = False) -> int:
    """The checkpoints of a place: step, size, age, accuracy, validity (by manifest and sizes; `verify` reads all).

    Example: dydist checkpoint list s3://bucket/runs/cifar10

    Args:
        url: A run's folder, or its checkpoints' folder or URL.
        storage_options: fsspec options as JSON, such as '{"endpoint_url": "http://host:9000"}'.
        json: Print a list of objects.
    """
    from dydist.checkpoint import survey
    from dydist.errors import UserError

    storage, folder = _place(url, storage_options, "url")
    found = [item for item in survey(storage) if folder is None or item.folder == folder]
    if not found and "://" in storage.url:  # a store has no empty folders
        raise UserError(f"url: there is nothing at {storage.url}; give a run's checkpoint folder or URL")
    return _show(storage.url, found, json=json)


def verify_checkpoints(
    url: Url, *, step: Index | None = None, storage_options: str = "{}", json: bool = False
) -> int:
    """Read every byte of checkpoints and compare with their manifests. Exit 1 if one is damaged.

    Example: dydist checkpoint verify runs/cifar10/checkpoints --step 1200

    Args:
        url: A run's folder, its checkpoints' folder or URL, or one step's folder.
        step: Only this step.
        storage_options: fsspec options as JSON.
        json: Print a list of objects.
    """
    from dataclasses import replace

    from dydist.checkpoint import DamagedError, verify

    storage, found = _find(url, step, storage_options)
    checked = []
    with progress("verifying", len(found)) as advance:
        for item in found:
            try:
                verify(storage, item)
            except DamagedError as error:
                item = replace(item, problem=item.problem or str(error))
            checked.append(item)
            advance()
    _show(storage.url, checked, json=json)
    return 1 if any(item.problem is not None for item in checked) else 0


def prune_checkpoints(
    url: Url,
    *,
    keep: Count = 3,
    keep_every_steps: Count | None = None,
    keep_best: bool = True,
    dry_run: bool = False,
    storage_options: str = "{}",
    json: bool = False,
) -> int:
    """Remove checkpoints that are not needed, and leftovers of torn saves older than a day.

    The newest valid one is first read back completely. If none is valid, nothing is removed.

    Example: dydist checkpoint prune runs/cifar10/checkpoints --keep 2 --dry-run

    Args:
        url: A run's folder, or its checkpoints' folder or URL.
        keep: How many of the newest are kept.
        keep_every_steps: Keep those whose step is a multiple of this.
        keep_best: Keep the one with the best accuracy.
        dry_run: Only show what would go.
        storage_options: fsspec options as JSON.
        json: Print what was removed as a list of objects.
    """
    from dydist.checkpoint import Keep, prune
    from dydist.errors import UserError

    storage, folder = _place(url, storage_options, "url")
    if folder is not None:
        raise UserError(f"url: {url} is one checkpoint; give the folder that holds it")
    rule = Keep(keep=keep, keep_every_steps=keep_every_steps, keep_best=keep_best)
    removed = prune(storage, rule, now=time.time(), dry_run=dry_run)
    if json:
        print(json_module.dumps([_facts(item) for item in removed], indent=1))
        return 0
    for item in removed:
        show(f"{'would remove' if dry_run else 'removed'} {storage.url}/{item.folder} ({item.bytes:,} bytes)")
    if not removed:
        show(f"nothing to remove at {storage.url}")
    return 0


def copy_checkpoints(
    source: Url,
    target: Url,
    *,
    step: Index | None = None,
    all_steps: bool = False,
    source_options: str = "{}",
    target_options: str = "{}",
    json: bool = False,
) -> int:
    """Copy a checkpoint to another place, the newest that can be loaded by default; run again, it resumes.

    Every byte is verified. Newer ones that cannot be loaded are reported and skipped.

    Example: dydist checkpoint copy s3://bucket/runs/cifar10 ./from-s3

    Args:
        source: A run's folder, its checkpoints' folder or URL, or one step's folder.
        target: The folder or URL to copy to.
        step: This step instead of the newest.
        all_steps: Every checkpoint. Exit 1 if one that `list` shows as valid cannot be loaded.
        source_options: fsspec options of the source as JSON.
        target_options: fsspec options of the target as JSON.
        json: Print what was copied as a list of objects.
    """
    from dydist.checkpoint import DamagedError, copy_checkpoint, remove_attempt
    from dydist.errors import UserError
    from dydist.storage.places import is_url

    storage, found = _find(source, step, source_options)
    if all(item.problem is not None for item in found):
        raise UserError(f"source: {storage.url}: {found[0].folder}: {found[0].problem}; copy another step")
    destination = _target(target, target_options)
    results, damaged = [], 0
    for item in found[:: -1 if all_steps else 1]:
        try:
            manifest = item.intact
            with progress(item.folder, manifest.total_bytes) as advance:
                copied = copy_checkpoint(
                    storage, destination, item, on_file=lambda name, size, copied: advance(size)
                )
        except DamagedError as error:
            tell(f"{error}; it is skipped")
            if item.problem is None:
                damaged += 1
                remove_attempt(destination, item.folder, item.intact.attempt)
            continue
        except OSError as error:
            if is_url(destination.url) or str(error.filename or "").startswith(storage.url):
                raise
            raise UserError(
                f"target: cannot write {destination.url} ({error.strerror or error}); give a folder that can be "
                "written, with room for the checkpoint"
            ) from error
        results.append({**_facts(item), "url": f"{destination.url}/{item.folder}", "copied": copied})
        if not json:
            show(
                f"{destination.url}/{item.folder}: {'copied and verified' if copied else 'was there already'}"
            )
        if not all_steps:
            break
    if json:
        print(json_module.dumps(results, indent=1))
    return 1 if not results or (all_steps and damaged) else 0


def _target(given: str, options: str) -> Retrying:
    """The store to write to; a run's folder means the run's store, as in other commands."""
    from dydist.errors import UserError
    from dydist.named_run import is_run_folder, place_of

    own, path = parse_options(options), Path(given)
    of_run: Mapping[str, Any] = {}
    if "://" not in given and is_run_folder(path):
        given, _, of_run = place_of(given, field="target")
    elif "://" not in given and path.exists() and not path.is_dir():
        raise UserError(f"target: {given} is a file; give a folder or a URL")
    return open_place(given, {**of_run, **own}, field="target")


def _place(given: str, options: str, field: str) -> tuple[Retrying, str | None]:
    """The store of a run's folder, a store or a checkpoint's folder, and the checkpoint's name or None."""
    from dydist.named_run import place_of

    own = parse_options(options)
    place, folder, of_run = place_of(given, field=field)
    return open_place(place, {**of_run, **own}, field=field), folder


def parse_options(text: str) -> dict[str, Any]:
    """Parse fsspec options as JSON. Raises UserError."""
    from dydist.errors import UserError
    from dydist.text.strict import load_json

    try:
        values = load_json(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(
            f"--storage-options: not a JSON object ({error}); use one such as '{{\"anon\": true}}'"
        ) from None
    return values


def open_place(url: str, options: Mapping[str, Any], *, field: str = "url") -> Retrying:
    """Open the store at a path or URL for an interactive command; retries transient failures.

    DYDIST_SECRETS replaces `<hidden>` values, as for a run.
    """
    from dydist.checkpoint import open_patiently

    return open_patiently(url, options, field=field, on_retry=lambda text: tell(text))


def _find(url: str, step: Index | None, options: str) -> tuple[Retrying, list[CheckpointFolder]]:
    """The checkpoints of a store or a step's folder. Raises UserError if there are none."""
    from dydist.checkpoint import inspect, survey
    from dydist.errors import UserError

    storage, folder = _place(url, options, "url")
    if folder is not None:
        found = [inspect(storage, folder)] if folder in storage.folders() else []
    else:
        found = [item for item in survey(storage) if step is None or item.step == step]
    if not found:
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise UserError(
            f"url: {what} at {storage.url}; give a run's checkpoint folder; `dydist checkpoint list` shows it"
        )
    return storage, found


def _facts(item: CheckpointFolder) -> dict[str, Any]:
    manifest = item.manifest
    return {
        "step": item.step,
        "folder": item.folder,
        "valid": item.problem is None,
        "problem": item.problem,
        "set_aside": item.set_aside,
        "bytes": item.bytes,
        "written_at": manifest.written_at if manifest else None,
        "accuracy": manifest.accuracy if manifest else None,
        "run": manifest.run if manifest else None,
        "job": manifest.job if manifest else None,
        "host": manifest.host if manifest else None,
        "world_size": manifest.world_size if manifest else None,
    }


def _show(url: str, found: list[CheckpointFolder], *, json: bool) -> int:
    if json:
        print(json_module.dumps([_facts(item) for item in found], indent=1))
        return 0
    from rich.table import Table

    if not found:
        show(f"no checkpoints at {url}")
        return 0
    table = Table("step", "size", "age", "accuracy", "run", "state", title=cell(url))
    for item in found:
        manifest = item.manifest
        table.add_row(
            str(item.step),
            f"{item.bytes / 2**20:,.1f} MiB",
            _age(time.time() - manifest.written_at) if manifest else "?",
            f"{100 * manifest.accuracy:.2f} %" if manifest and manifest.accuracy is not None else "–",
            cell(manifest.run if manifest else "?"),
            cell(item.problem or ("set aside" if item.set_aside else "valid")),
        )
    console().print(table)
    return 0


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class progress:  # noqa: N801 - used as a function
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self, what: str, total: int, *, shown: bool = True) -> None:
        from rich.markup import escape
        from rich.progress import Progress

        screen = console(stderr=True)
        self._bar = Progress(console=screen, transient=True, disable=not (shown and screen.is_terminal))
        self._task = self._bar.add_task(escape(plain(what)), total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda amount=1: self._bar.advance(self._task, amount)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


COMMANDS = {
    "checkpoint list": list_checkpoints,
    "checkpoint verify": verify_checkpoints,
    "checkpoint prune": prune_checkpoints,
    "checkpoint copy": copy_checkpoints,
}
