"""The file names in a checkpoint folder, and MANIFEST.json, which commits it.

A checkpoint is one folder, `step-000001234/`, with `model-*.safetensors`, `optimizer-*.safetensors`,
`ema-*.safetensors` (if weights are averaged), `state.json`, and, written last, `MANIFEST.json`: the format's version,
each file's size and SHA-256, and a SHA-256 of itself. The names of tensor files contain the save's *attempt*, a
random token, so that files left by a killed save are never mistaken for those of another save of the same step. The
state is stored twice, in `state.json` and in the header of a tensor file: see `written_in_place`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dydist.errors import DamagedError, NewerFormatError
from dydist.storage.names import MANIFEST

FORMAT = "dydist-checkpoint"
VERSION = 1
STATE = "state.json"
KINDS = ("model", "optimizer", "ema")

HIGHEST_STEP = 10**15 - 1
"""A higher number in a name or a manifest is not a step."""

_TOKEN = r"[0-9A-Za-z_]{1,64}"
TENSOR_FILE = re.compile(rf"(model|optimizer|ema)-([0-9]{{5,9}})-of-([0-9]{{5,9}})-({_TOKEN})\.safetensors")
_FILE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}")
"""Names that a manifest may list: one path component without characters special to a shell or terminal."""


def tensor_file(kind: str, share: int, shares: int, attempt: str) -> str:
    """Name of the file that holds one share of one kind of tensors."""
    return f"{kind}-{share:05d}-of-{shares:05d}-{attempt}.safetensors"


def part_file(rank: int, attempt: str) -> str:
    """Name of the file with which a process confirms its share to the committing process."""
    return f"part-{rank:05d}-{attempt}.json"


def aside_file(attempt: str) -> str:
    """Name of the file that marks a checkpoint as set aside.

    It contains the attempt, so that it does not apply to a later save of the same step.
    """
    return f"SET-ASIDE-{attempt}.json"


def read_json(raw: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises ValueError if it is not one, is nested too deeply, or repeats a key."""
    try:
        values = json.loads(raw, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def is_integer(value: Any, least: int, most: int) -> bool:
    """Whether a JSON value is an integer within bounds (`true` is not)."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number of a plausible magnitude."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


def is_text(value: Any) -> bool:
    """Whether a JSON value is a string short enough for a line, and encodable as UTF-8."""
    if not isinstance(value, str) or len(value) > 1024:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of one file."""

    bytes: int
    sha256: str

    @classmethod
    def decode(cls, name: str, values: Any) -> FileEntry:
        """Decode the entry of file `name`. Raises ValueError for a name or an entry that no save writes."""
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"lists a file {name!r:.80}, which no save writes")
        if not isinstance(values, dict) or values.keys() != {"bytes", "sha256"}:
            raise ValueError(f"describes {name} in another way than by bytes and sha256")
        size, digest = values["bytes"], values["sha256"]
        if not is_integer(size, 0, 2**62) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"has another size or SHA-256 of {name} than a file can have")
        return cls(bytes=size, sha256=digest)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of MANIFEST.json. `written_at` is in seconds since 1970; `accuracy` is a fraction."""

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
        """Bytes of all files except the manifest."""
        return sum(entry.bytes for entry in self.files.values())

    def encode(self) -> bytes:
        """Encode as JSON with sorted keys: equal manifests give equal bytes."""
        return _seal({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Decode a manifest. Raises DamagedError if its checksum is wrong, NewerFormatError for newer versions."""
        try:
            values = read_json(raw)
            checksum, found, version = values.pop("checksum"), values["format"], values.pop("version")
            matches = _checksum({**values, "version": version}) == checksum
        except (ValueError, KeyError, RecursionError) as error:
            raise DamagedError(f"{MANIFEST} cannot be read: {error!r:.200}") from None
        if found != FORMAT or not matches:
            raise DamagedError(f"{MANIFEST} does not match its own checksum")
        if not is_integer(version, 1, 2**31):
            raise DamagedError(f"{MANIFEST} is of version {version!r:.80}; versions are whole numbers from 1")
        if version > VERSION:
            raise NewerFormatError(
                f"checkpoint: its format is version {version}; this dydist reads versions up to {VERSION}; "
                "upgrade dydist, or use a checkpoint that an older one wrote"
            )
        if _seal({**values, "version": version}) != raw:
            raise DamagedError(f"{MANIFEST} was altered")
        values.pop("format")
        if values.keys() != _FIELDS.keys():
            odd = ", ".join(sorted(f"{name:.80}" for name in values.keys() ^ _FIELDS.keys()))
            raise DamagedError(f"{MANIFEST} lacks what a version {version} manifest has, or has more: {odd}")
        for name, allowed in _FIELDS.items():
            if not allowed(values[name]):
                raise DamagedError(f"{MANIFEST} has {name}={values[name]!r:.80}, which no checkpoint has")
        try:
            files = {name: FileEntry.decode(name, entry) for name, entry in values.pop("files").items()}
        except ValueError as error:
            raise DamagedError(f"{MANIFEST} {error}") from None
        return cls(**values, files=files)

    @property
    def lack(self) -> str | None:
        """Why a checkpoint with this list of files cannot be loaded, or None."""
        parts = [match for name in self.files if (match := TENSOR_FILE.fullmatch(name))]
        if not any(part[1] == "model" for part in parts):
            return f"{MANIFEST} lists no weights"
        if STATE not in self.files:
            return f"{MANIFEST} lists no {STATE}"
        for part in parts:
            if part[4] != self.attempt or int(part[2]) >= int(part[3]) or part[3] != parts[0][3]:
                return f"{MANIFEST} lists {part[0]}, which is not of this save"
        return None


_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: is_integer(value, 0, HIGHEST_STEP),
    "attempt": lambda value: isinstance(value, str) and re.fullmatch(_TOKEN, value) is not None,
    "run": is_text,
    "job": is_text,
    "host": is_text,
    "written_at": lambda value: is_number(value) and -1e11 < value < 1e11,
    "accuracy": lambda value: value is None or is_number(value),
    "world_size": lambda value: is_integer(value, 1, 10**9),
    "files": lambda value: isinstance(value, dict),
}
"""The fields of a version-1 manifest besides format, version and checksum, and their checks."""


def encode_json(values: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and a final newline."""
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(values)).hexdigest()


def _seal(values: Mapping[str, Any]) -> bytes:
    return encode_json({**values, "checksum": _checksum(values)})
