"""What the run folder records of a tracker: trackers/NAME.json."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dydist.monitor.outputs.files import json_bytes, replace_file


def read_record(run_dir: Path, name: str) -> dict[str, Any]:
    """`id`, `number`: the run there; `sent`: the newest step sent; `place`; `finished`: the state at its last end."""
    with suppress(OSError, ValueError):
        values = json.loads(_path(run_dir, name).read_bytes())
        if isinstance(values, dict):
            return values
    return {}


def write_record(run_dir: Path, name: str, values: dict[str, Any]) -> None:
    """Replace the record."""
    path = _path(run_dir, name)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json_bytes(values, indent=1), durable=False)


def _path(run_dir: Path, name: str) -> Path:
    return run_dir / "trackers" / f"{name}.json"
