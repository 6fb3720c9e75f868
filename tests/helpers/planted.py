"""A secret that was planted, and looking for it wherever a command could have left it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from helpers.support import REPOSITORY, command

_MARKS = [uuid.uuid4().hex[:8] for _ in range(4)]
"""Of this process alone: another that tests at the same time has its own."""
SECRET = f"{_MARKS[0]}/{_MARKS[1]}+key=="
PASSWORD = f"{_MARKS[2]}@p/ss?{_MARKS[3]}"
NEEDLES = tuple(
    {
        spelling.encode()
        for secret in (SECRET, PASSWORD)
        for spelling in (
            secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1],
            base64.b64encode(secret.encode()).decode(), *_MARKS,
        )
    }
)  # fmt: skip
"""Its spellings, and its parts: half a password is a leak too."""

TINY = {
    "data.name": "digits", "data.limit": 128, "model.width": 0.0625, "train.epochs": 2, "train.max_steps": 6,
    "train.batch_size": 32, "checkpoint.every_steps": 3, "monitor.every_steps": 1, "checkpoint.deadline_s": 60,
}  # fmt: skip


@dataclass
class World:
    """A user's folders, commands that are run there, and what they left."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    outputs: int = 0

    def __post_init__(self) -> None:
        for name in ("tmp", "outputs", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.env = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp"),
            "XDG_STATE_HOME": str(self.folder / "state"), "XDG_CONFIG_HOME": str(self.folder / "config"),
            "HOME": str(self.folder), **self.env,
        }  # fmt: skip

    def run(self, *words: object, code: int | None = 0, **env: str) -> str:
        """Run a Python program of this project as its user does; what it printed, which is kept too."""
        command = [sys.executable, *map(str, words)]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder / "work",
            env={**self.env, **env},
            timeout=900,
        )
        text = result.stdout + result.stderr
        self.outputs += 1
        (self.folder / "outputs" / f"{self.outputs:02d}.txt").write_text(text)
        assert code is None or result.returncode == code, f"{words}: exit {result.returncode}\n{text}"
        return text

    def train(self, *words: object, code: int | None = 0, **env: str) -> str:
        return self.run(REPOSITORY / "dydist" / "train.py", *words, code=code, **env)

    def dydist(self, *words: object, code: int | None = 0, **env: str) -> str:
        return self.run("-m", "dydist.cli.main", *words, code=code, **env)

    def forked(self, *words: object, code: int | None = 0, **env: str) -> str:
        """`dydist` for what is no test of process lists: quicker."""
        self.outputs += 1
        log = self.folder / "outputs" / f"{self.outputs:02d}.txt"
        ended, text = command(words, cwd=self.folder / "work", log=log, env={**self.env, **env})
        assert code is None or ended == code, f"{words}: exit {ended}\n{text}"
        return text

    def found(self) -> list[str]:
        """Every file and name under the folder that tells something of a secret."""
        return sorted(leaks(self.folder))

    def recipe(self, **values: object) -> Path:
        """A recipe of the user's own with `values` (checkpoint__url=…), outside of the folders that are searched."""
        import yaml

        nested: dict[str, dict[str, object]] = {}
        for name, value in {**TINY, **{key.replace("__", "."): one for key, one in values.items()}}.items():
            section, _, field_name = name.partition(".")
            nested.setdefault(section, {})[field_name] = value
        path = self.folder.with_name(f"{self.folder.name}-own") / "recipe.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(nested))
        return path


def leaks(folder: Path) -> Iterator[str]:
    """Names of files that hold a needle, or have one in their name."""
    for path in sorted(folder.rglob("*")):
        if any(needle in os.fsencode(path.name) for needle in NEEDLES):
            yield f"{path} (its name)"
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if any(needle in content for needle in NEEDLES):
                place = min(content.find(needle) for needle in NEEDLES if needle in content)
                yield f"{path.relative_to(folder)}: …{content[max(0, place - 60) : place + 40]!r}"


@contextmanager
def watched_processes(allowed: Sequence[str] = ()) -> Iterator[list[str]]:
    """Within, looks at the command lines of all processes again and again; those that show a needle are collected.

    `allowed`: parts of command lines that a user typed with the secret in them.
    """
    seen: list[str] = []  # each command line once
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for process in psutil.process_iter():
                try:
                    line = "\0".join(process.cmdline())
                except psutil.Error:
                    continue
                told = any(needle.decode() in line for needle in NEEDLES)
                if told and line not in seen and not any(one in line for one in allowed):
                    seen.append(line)
            time.sleep(0.05)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def secrets(values: Mapping[str, object]) -> dict[str, str]:
    """DYDIST_SECRETS with these fields."""
    return {"DYDIST_SECRETS": json.dumps(values)}


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Storage options of a running S3 server (moto) with the bucket `bucket`."""
    import fsspec

    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        port = next(
            found[1] for line in process.stderr if (found := re.search(r"on http://127\.0\.0\.1:(\d+)", line))
        )
        threading.Thread(target=process.stderr.read, daemon=True).start()
        options = {"key": "planted-key", "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{port}"}
        fsspec.filesystem("s3", **options, skip_instance_cache=True).mkdir("bucket")
        yield options
        process.terminate()
