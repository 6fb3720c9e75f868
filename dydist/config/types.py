"""Types of fields: conversion of values, descriptions for messages, and normalization of paths.

`FilePath` marks a field as a path: `convert` expands `~` and removes a trailing slash. `Range` limits a number in the
options of subcommands; `rules` has the limits of a run's fields.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
import types
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dydist.errors import UserError
from dydist.text.redaction import redact, scrub
from dydist.text.strict import number
from dydist.user_function import is_added

_PATH = "a path, or a URL"
FilePath = Annotated[str, _PATH]
"""A path or URL. `~` and `~user` are expanded; environment variables are not."""


@dataclass(frozen=True)
class Range:
    """A lower limit of a number, inclusive unless `above`."""

    low: float
    above: bool = False

    def check(self, value: Any, where: str) -> None:
        """Raise UserError if `value` is out of range. None is allowed."""
        if value is not None and not (value > self.low if self.above else value >= self.low):
            allowed = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
            raise UserError(f"{where}: {value} is not allowed; it must be {allowed}")


@dataclass(frozen=True)
class Added:
    """Marks a `Literal` to which installed packages add names by an entry-point group."""

    group: str


Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
_LARGEST_WHOLE = 2**63 - 1
_SHOWN = 100
"""Maximum number of characters of a wrong value in a message."""


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """Type hints of a dataclass's fields, including annotations."""
    return get_type_hints(kind, include_extras=True)


def describe(kind: Any) -> str:
    """Describe a field's type: `a whole number`, `one of fast, exact`, …"""
    origin = get_origin(kind)
    if origin is Annotated:
        added = any(isinstance(mark, Added) for mark in get_args(kind)[1:])
        return describe(get_args(kind)[0]) + (", or what an installed package adds" if added else "")
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else describe(one) for one in get_args(kind))
    if origin is tuple:
        return f"a list, each {describe(get_args(kind)[0])}"
    if origin is dict:
        return "a mapping"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, str(kind))


def takes_text(kind: Any) -> bool:
    """Whether any text is a value of this type."""
    origin = get_origin(kind)
    if origin is Annotated:
        return takes_text(get_args(kind)[0])
    if origin in (Union, types.UnionType):
        return any(takes_text(one) for one in get_args(kind))
    return kind is str


def is_path(kind: Any) -> bool:
    """Whether a field of this type is marked as a path."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(is_path(one) for one in get_args(kind))
    return get_origin(kind) is Annotated and _PATH in get_args(kind)


def convert(value: Any, kind: Any, where: str) -> Any:
    """Convert `value` to `kind`, or raise UserError. Integers are accepted as floats, and paths are normalized."""
    fits, converted = _fit(value, kind)
    if not fits:
        # a mapping holds credentials, and a text that should have been one may hold them in any form
        text = shown(redact({"": value})[""]) if get_origin(kind) is dict else scrub(shown(value, kind))
        raise UserError(f"{where}: {text} is not allowed; it must be {describe(kind)}{_advice(value, kind)}")
    if isinstance(converted, str) and not _encodes(converted):
        raise UserError(f"{where}: {shown(converted)} is not allowed; it must be text in UTF-8")
    if isinstance(converted, str) and is_path(kind):
        return normal_path(converted, where)
    return converted


def normal_path(text: str, where: str) -> str:
    """A normalized path or URL: `expanded_path` without control characters. Raises UserError."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise UserError(f"{where}: {scrub(repr(text))} is not allowed; a path has no control characters")
    return expanded_path(text, where)


def expanded_path(text: str, where: str) -> str:
    """A path or URL with `~` and `~user` expanded, and no trailing slash. Raises UserError."""
    if not text.strip():
        raise UserError(f"{where}: {text!r} is empty; give a path, or leave it out")
    if "://" in text:
        scheme, _, rest = text.partition("://")
        return f"{scheme}://{rest.rstrip('/') or rest}"
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and text.startswith("~"):
        user = text.partition("/")[0]
        unknown = "your home folder is not known (HOME)" if user == "~" else f"there is no user {user[1:]!r}"
        raise UserError(
            f"{where}: {text!r}: {unknown}; write ./{user} for a folder of that name, or the whole path"
        )
    return expanded.rstrip("/") or "/"


def folder_name_problem(name: str) -> str | None:
    """Why `name` cannot be the name of a single folder, or None."""
    if not name.strip() or name in (".", ".."):
        return "it must be a folder name"
    if any(character in "/\\" for character in name):
        return "it must be a folder name without / or \\"
    if not name.isprintable() or name != name.strip() or not _encodes(name):
        return "it must be a folder name without control characters, and without blanks around it"
    if len(name.encode()) > 200:
        return "it must be a folder name of at most 200 bytes"
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the name in `known` closest to `name`, or ""."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:  # the right field in the wrong section, or with none
        last = name.rsplit(".", 1)[-1]
        close = [one for one in names if one.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: Any, kind: Any = None) -> str:
    """A value for a message: on one line, and truncated."""
    if kind is not None and isinstance(value, str) and not takes_text(kind) and number(value) is not None:
        text = str(number(value)) if not math.isfinite(number(value) or 0) else repr(value)
    elif isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        text = f"a number of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _advice(value: Any, kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _advice(value, get_args(kind)[0])
    if get_origin(kind) is Literal and isinstance(value, str):
        return nearest(value, map(str, get_args(kind)))
    if takes_text(kind) and value is not None and not isinstance(value, (str, list, dict)):
        return "; put it in quotes"
    if get_origin(kind) is dict and isinstance(value, dict):
        return " in which every key is a text; put numbers in quotes"
    if isinstance(value, int) and abs(value) > _LARGEST_WHOLE:
        return f" of at most {_LARGEST_WHOLE}"
    return ""


def _encodes(text: str) -> bool:
    """False if the text has lone surrogates, which Python uses for arguments that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fit(value: Any, kind: Any) -> tuple[bool, Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        fits, found = _fit(value, get_args(kind)[0])
        groups = [mark.group for mark in get_args(kind)[1:] if isinstance(mark, Added)]
        if not fits and groups and isinstance(value, str) and is_added(groups[0], value):
            return True, value
        return fits, found
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(kind)), value
    if origin in (Union, types.UnionType):
        return next((found for one in get_args(kind) if (found := _fit(value, one))[0]), (False, None))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False, None
        parts = [_fit(one, get_args(kind)[0]) for one in value]
        return all(fits for fits, _ in parts), tuple(part for _, part in parts)
    if origin is dict:
        return isinstance(value, dict) and _keys_are_texts(value), value
    if isinstance(value, bool) and kind is not bool:
        return False, None
    if kind is float:
        given = number(value) if isinstance(value, str) else value  # YAML 1.1 takes 1e-3 for a text
        return isinstance(given, (int, float)) and abs(given) <= sys.float_info.max, given
    if kind is int:
        return isinstance(value, int) and abs(value) <= _LARGEST_WHOLE, value
    return isinstance(value, kind), value


def _keys_are_texts(value: Any) -> bool:
    """Whether all keys of a mapping, and of the mappings in it, are strings, as JSON and redaction require."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _keys_are_texts(inner) for key, inner in value.items())
    return not isinstance(value, list) or all(map(_keys_are_texts, value))
