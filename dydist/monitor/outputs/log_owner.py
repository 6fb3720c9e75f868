"""The owner of a log folder outside the run folder: TensorBoard would merge the curves of two runs in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.storage.places import is_url, local_path, open_filesystem
from dydist.text.redaction import redact_url

OWNER = "dydist-run.json"


class LogOwner:
    """The owner file in `monitor.logdir`. With `logdir` None, the log is in the run folder, which has its own record.

    A store that cannot be reached does not prevent a start: the upload of the log reports it, and retries.
    """

    def __init__(self, logdir: str | None, options: Mapping[str, Any]) -> None:
        self._logdir, self._options = logdir, options

    def check(self, run: str, run_name: str) -> None:
        """Raise UserError if the folder belongs to another run than `run` (its id)."""
        owner = self._read()
        if self._logdir is None or owner.get("run") in (None, run):
            return
        shown = redact_url(self._logdir)
        raise UserError(
            f"monitor.logdir: {shown} holds the log of another run ({owner.get('folder', 'unknown')}), and TensorBoard "
            f"would show both as one; give each run a folder of its own, such as {shown.rstrip('/')}/{run_name}, or "
            f"remove {OWNER} there where that run is gone"
        )

    def claim(self, run: str, run_dir: Path) -> None:
        """Write the owner file."""
        if self._logdir is None or self._read().get("run") == run:
            return
        content = json.dumps({"run": run, "folder": str(run_dir)}, indent=1).encode()
        try:
            if not is_url(self._logdir):
                folder = Path(local_path(self._logdir))
                folder.mkdir(parents=True, exist_ok=True)
                (folder / OWNER).write_bytes(content)
            else:
                system, root = open_filesystem(self._logdir, self._options, field="monitor.logdir")
                system.makedirs(root, exist_ok=True)
                system.pipe_file(f"{root.rstrip('/')}/{OWNER}", content)
        except Exception:  # any store, any error
            return

    def _read(self) -> dict[str, Any]:
        if self._logdir is None:
            return {}
        try:
            if not is_url(self._logdir):
                content = (Path(local_path(self._logdir)) / OWNER).read_bytes()
            else:
                system, root = open_filesystem(self._logdir, self._options, field="monitor.logdir")
                content = system.cat_file(f"{root.rstrip('/')}/{OWNER}")
            values = json.loads(content)
        except Exception:  # any store, any error; the file may not be there
            return {}
        return values if isinstance(values, dict) else {}
