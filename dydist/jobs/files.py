"""Small JSON files on a file system that several nodes share."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` atomically: readers on any node see the old or the new content."""
    replace_text(path, json.dumps(content, indent=1))


def replace_text(path: Path, text: str) -> None:
    """As `write_json`, for a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:  # a full disk
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other thread of any node uses."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")


def create_json(path: Path, content: Mapping[str, Any]) -> bool:
    """Create `path` unless it exists; of several callers exactly one gets True (link(2) is atomic on NFS too)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None if the file does not exist or is not JSON (yet)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """Append one line in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file, without a truncated last one; a missing file has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content
