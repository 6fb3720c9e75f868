"""Strict reading of text that users write: YAML, JSON and numbers. Nothing is ignored or guessed.

Duplicate keys, aliases that expand without bound and excessive nesting are errors. An integer consists of decimal
digits only: `010`, `1_0` and digits of other scripts are strings, which a numeric field rejects.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

LARGEST_FILE = 1 << 20
"""Maximum bytes of a file that a user writes."""
_LARGEST_TREE = 100_000
"""Maximum number of values of a YAML document with its aliases expanded."""
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.?(?i:inf|nan)")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class TextError(ValueError):
    """A text is malformed. The message is one line and includes the text's line number."""


def whole_number(text: str) -> int | None:
    """An integer of at most 18 decimal digits; None for any other text, such as `+12`, `1_2` or Arabic digits."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def number(text: str) -> float | None:
    """A float such as `1e-3`; None for any other text."""
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if _NUMBER.fullmatch(text) else None


def read_user_text(file: Path) -> str:
    """Read a user's file: UTF-8, or UTF-16 with a byte-order mark. Raises TextError and OSError."""
    with file.open("rb") as stream:
        raw = stream.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise TextError(f"it is larger than {LARGEST_FILE >> 20} MiB")
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from None


def load_yaml(text: str, *, times_in_quotes: bool = False) -> Any:
    """Read the single document of a YAML text; None if it is empty.

    YAML 1.1 reads 10:20 as 620, a number of base 60. Here it is a string, or an error with `times_in_quotes`, for
    files that other programs read as well. Dates are strings. Raises TextError.
    """
    return _load(text, _Loader, times_in_quotes=times_in_quotes)


def load_yaml_words(text: str) -> Any:
    """As `load_yaml`, but every scalar is a string as written: `1.10` stays `1.10`. Raises TextError."""
    return _load(text, yaml.BaseLoader, times_in_quotes=False)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Nested values as YAML, in their order, which `load_yaml` reads back as they are."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_json(text: str) -> Any:
    """Read a JSON text. Raises TextError, also for duplicate keys, NaN and Infinity."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise TextError("it is nested too deeply") from None
    except TextError:
        raise
    except ValueError as error:
        raise TextError(str(error)) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML with this module's strict numbers and without dates.

    Its numbers are a subset of YAML 1.1's, so that a string that `yaml.safe_dump` leaves unquoted stays a string.
    """


_Loader.yaml_implicit_resolvers = {
    first: [(tag, known) for tag, known in resolvers if tag not in (_INT, _FLOAT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(rf"(?:{_WHOLE.pattern})\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"(?:[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Escapes NEL (U+0085): within single quotes, where SafeDumper writes it, it is read as a blank."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None
    ),
)


def _load(text: str, kind: type[Any], *, times_in_quotes: bool) -> Any:
    loader = None
    try:
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, (), {}, times_in_quotes)
        return loader.construct_document(node)
    except RecursionError:
        raise TextError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise TextError(_told(error)) from None
    except TextError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of more digits than Python converts
        raise TextError(" ".join(str(error).split())) from None
    finally:
        if loader is not None:
            loader.dispose()


def _told(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    words = " ".join(str(error.problem or error.context or error).split())
    if "'\\t'" in words:
        words += "; indent with blanks, not tabs"
    return f"line {mark.line + 1}: {words}" if mark is not None else words


def _size(node: yaml.Node, path: Sequence[str], known: dict[int, int], times_in_quotes: bool) -> int:
    """The number of values in `node` with aliases expanded. Raises TextError if the node is malformed."""
    line = node.start_mark.line + 1
    if id(node) in known:
        if not known[id(node)]:
            raise TextError(f"line {line}: {'.'.join(path)}: an alias stands for what it is in itself")
        return known[id(node)]
    known[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            here = key.start_mark.line + 1
            if name in lines and name != "?":
                raise TextError(
                    f"line {here}: {'.'.join([*path, name])} is there twice, first in line {lines[name]}; "
                    "write it once, with everything below it"
                )
            lines[name] = here
            size += _size(value, [*path, name], known, times_in_quotes)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            size += _size(value, path, known, times_in_quotes)
    elif (
        times_in_quotes
        and isinstance(node, yaml.ScalarNode)
        and node.style is None
        and _BASE_60.fullmatch(node.value)
    ):
        raise TextError(
            f"line {line}: {'.'.join(path)}: {node.value} without quotes is a number of base 60 for YAML; "
            f'quote it: "{node.value}"'
        )
    if size > _LARGEST_TREE:
        raise TextError(
            f"line {line}: {'.'.join(path)}: aliases repeat values more than {_LARGEST_TREE:,} times"
        )
    known[id(node)] = size
    return size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TextError(f"{name!r} is there twice; write it once")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise TextError(f"{name} is not a number of JSON")
