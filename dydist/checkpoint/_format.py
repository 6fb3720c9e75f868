"""The names in a checkpoint folder, and MANIFEST.json, which makes a folder a checkpoint.

A checkpoint is one folder, `step-000001234/`, with `model-*.safetensors`, `optimizer-*.safetensors`,
`ema-*.safetensors` (where weights are averaged), `state.json`, and last of all `MANIFEST.json`: the format's version,
each file's size and SHA-256, and a SHA-256 of itself. The names of tensor files carry the save's *attempt*, a random
token, so that the leftovers of a killed save are never taken for parts of another save of the same step.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dydist.checkpoint._errors import DamagedError, NewerFormatError

FORMAT = "dydist-checkpoint"
VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
KINDS = ("model", "optimizer", "ema")

PARTIAL, REPLACED = ".partial", ".replaced"
"""How hidden folders' names end: of a save that has not been published, and of what it replaced."""
HIGHEST_STEP = 10**15 - 1
"""No run has so many steps. A higher number in a name or a manifest is not a step."""

_STEP = re.compile(r"step-([0-9]{9,15})")
_LEFTOVER = re.compile(r"\.step-([0-9]{9,15})\.([0-9a-f]+)(\.partial|\.replaced)")


def folder_name(step: int) -> str:
    """Folder of the checkpoint after `step` optimiser steps."""
    return f"step-{step:09d}"


def step_of(folder: str) -> int | None:
    """The step that a folder's name tells, or None where it is not a checkpoint folder's name."""
    match = _STEP.fullmatch(folder)
    step = int(match[1]) if match else None
    return step if step is not None and folder == folder_name(step) else None  # no second name for one step


def leftover_step(folder: str) -> int | None:
    """The step of a save that was never finished, or of one that was replaced, by its folder's name; or None."""
    match = _LEFTOVER.fullmatch(folder)
    return int(match[1]) if match else None


def tensor_file(kind: str, share: int, shares: int, attempt: str) -> str:
    """Name of the file that holds one share of one kind of tensors."""
    return f"{kind}-{share:05d}-of-{shares:05d}-{attempt}.safetensors"


def part_file(rank: int, attempt: str) -> str:
    """Name of the note with which one process confirms its files to the one that commits."""
    return f"part-{rank:05d}-{attempt}.json"


def aside_file(attempt: str) -> str:
    """Name of the mark that the user went back before this checkpoint, so that it is not chosen by itself any more.

    It names the attempt: a later save of the same step is not meant.
    """
    return f"SET-ASIDE-{attempt}.json"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What MANIFEST.json holds. `written_at` is in seconds since 1970; `accuracy` is a fraction."""

    step: int
    attempt: str
    run: str
    job: str
    host: str
    written_at: float
    accuracy: float | None
    world_size: int
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, without the manifest's own."""
        return sum(entry.bytes for entry in self.files.values())

    def encode(self) -> bytes:
        """The file's bytes: JSON with sorted keys, a pure function of the values."""
        return _seal({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Read the file's bytes. Raises DamagedError if a single bit differs, NewerFormatError for newer ones."""
        try:
            values = json.loads(raw)
            checksum = values.pop("checksum")
            found = values["format"]
            version = int(values.pop("version"))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError(f"{MANIFEST} cannot be read: {error!r}") from None
        if found != FORMAT or _checksum({**values, "version": version}) != checksum:
            raise DamagedError(f"{MANIFEST} does not match its own checksum")
        if version > VERSION:
            raise NewerFormatError(
                f"checkpoint: its format is version {version}; this dydist reads versions up to {VERSION}; "
                "upgrade dydist, or use a checkpoint that an older one wrote"
            )
        if _seal({**values, "version": version}) != raw:
            raise DamagedError(f"{MANIFEST} was altered")
        values.pop("format")
        try:
            files = {name: FileEntry(**entry) for name, entry in values.pop("files").items()}
            return cls(**values, files=files)
        except (TypeError, AttributeError) as error:
            raise DamagedError(f"{MANIFEST} lacks what a version {version} manifest has: {error}") from None


def encode_json(values: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and a line's end."""
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(values)).hexdigest()


def _seal(values: Mapping[str, Any]) -> bytes:
    return encode_json({**values, "checksum": _checksum(values)})
