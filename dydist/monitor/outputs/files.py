"""Atomic replacement of files: a reader, or a kill at any time, finds the old or the new content."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_bytes(values: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """A JSON object and a newline. A top-level float that is not finite becomes null, since JSON has no NaN."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps(finite, indent=indent).encode() + b"\n"


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` beside `path`, then rename it over `path`. `durable`: also survive a power loss."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
