"""Reading a configuration: a YAML file, then flags over it, with errors that name the field and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from dydist.config import Config
from dydist.errors import UserError
from dydist.redaction import fill_hidden, know, redact, redact_url, refuse_hidden, scrub
from dydist.shipped import RECIPES, find_file


class _Loader(yaml.SafeLoader):
    """Safe YAML without numbers of base 60, for which YAML 1.1 would take `profile: 10:20` (it reads 620)."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(rf"(?!.*:)(?:{known.pattern})", re.X) if tag in _NUMBERS else known)
        for tag, known in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_config(arguments: Sequence[str]) -> Config:
    """The configuration that command-line arguments ask for: `[--config FILE] [--section.field VALUE]…`.

    Raises UserError for anything unknown, of the wrong type or out of range. Prints the help and raises
    SystemExit(0) on --help. `Config.validate` is the caller's, who knows the world size.
    """
    found: Config = build(Config, read_given(arguments))
    return found


def read_given(arguments: Sequence[str]) -> dict[str, Any]:
    """The values that the arguments give, nested, as `read_config` reads them; what they leave out is not in it."""
    if any(argument in ("-h", "--help") for argument in arguments):
        from dydist.config_help import print_help

        print_help()
        raise SystemExit(0)
    file, flags = _split(arguments)
    values: dict[str, Any] = {}
    if file is not None:
        values = read_yaml(find_file(file, RECIPES))
    for path, text in flags:
        _set(values, path, _parse(text, _field_type(path), f"--{path}"))
    values = fill_hidden(values, os.environ)
    refuse_hidden(values)
    know(build(Config, values))
    return values


def read_yaml(file: Path) -> dict[str, Any]:
    """A recipe or a written config.yaml as nested dictionaries, checked field by field.

    In the latter, secrets are HIDDEN: `dydist.redaction` has what becomes of them.
    """
    try:
        values = _load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--config: cannot read {file} ({error.strerror}); give the path of a YAML file, or the name of a recipe "
            "that `dydist files` lists, such as quickstart"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config: {file} is not YAML: {_yaml_problem(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"--config: {file} holds a {type(values).__name__}; it must hold sections such as 'model:'"
        )
    return dict(_checked(Config, values, "", str(file)))


def redacted_values(values: Mapping[str, Any], kind: type[Any] = Config) -> dict[str, Any]:
    """Nested values, as `read_yaml` gives them, without their secrets."""
    hints, result = get_type_hints(kind), dict(values)
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            result[name] = redacted_values(value, typing.cast("type[Any]", hints[name]))
        elif isinstance(value, Mapping):
            result[name] = redact(value)
        elif isinstance(value, str):
            result[name] = redact_url(value)
    return result


def redacted_arguments(arguments: Sequence[str]) -> list[str]:
    """The same command line without its secrets; as many words as before."""
    result: list[str] = []
    rest = list(arguments)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        result.append(flag)
        if not equals and rest:
            text = rest.pop(0)
        path = flag[2:].replace("-", "_")
        if path != "config":
            kind = _field_type(path)
            if get_origin(kind) is dict:
                values = _parse(text, kind, flag)
                shown = redact(values)
                text = text if shown == values else json.dumps(shown)
            else:
                text = redact_url(text)
        if equals:
            result[-1] += f"={text}"
        else:
            result.append(text)
    return result


def build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration dataclass from nested, checked values; what is not given has its default."""
    hints = get_type_hints(kind)
    return kind(
        **{
            name: build(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """A configuration from what `to_dict` made of it, checked field by field. Raises UserError that names `where`."""
    found: Config = build(Config, dict(_checked(Config, values, "", where)))
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, as YAML and JSON take them."""
    return {
        field.name: (
            to_dict(value)
            if dataclasses.is_dataclass(value := getattr(config, field.name))
            else list(value)
            if isinstance(value, tuple)
            else value
        )
        for field in dataclasses.fields(config)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections → one value a dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def to_yaml(config: Config) -> str:
    """Every value, as `--config` takes it back. The caller redacts secrets first."""
    return dump_yaml(to_dict(config))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Nested sections as YAML, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def fields(kind: type[Any] = Config, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, type, default) of every field, in order."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from fields(hints[field.name], f"{path}.")
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            yield path, hints[field.name], default


def describe(kind: Any) -> str:
    """A field's type in words: `a whole number`, `one of fast, exact`, …"""
    origin = get_origin(kind)
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


def _split(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The --config file, and (path, text) of the flags. Both `--a.b c` and `--a.b=c` are taken."""
    file: str | None = None
    flags: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise UserError(f"{flag!r} is not a flag; write --section.field value (see --help)")
        name, equals, text = flag[2:].partition("=")
        name = name.replace("-", "_")
        if name != "config":
            _field_type(name)  # an unknown name is the mistake, whatever follows it
        if not equals:
            if not rest:
                raise UserError(f"--{name}: a value is missing; write --{name} VALUE")
            text = rest.pop(0)
        if name == "config":
            file = text
        else:
            flags.append((name, text))
    return file, flags


def _field_type(path: str) -> Any:
    known = {name: kind for name, kind, _ in fields()}
    if path not in known:
        raise UserError(f"--{path}: there is no such field{_nearest(path, known)} (--help lists all)")
    return known[path]


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:  # the right field in the wrong section, or with none
        last = name.rsplit(".", 1)[-1]
        close = [one for one in names if one.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where, without the line itself, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    context = " ".join(str(getattr(error, name) or "") for name in ("context", "problem")).strip()
    return f"line {mark.line + 1}, column {mark.column + 1}: {context}"


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value


def _parse(text: str, kind: Any, where: str) -> Any:
    """A flag's text as a value: YAML, so that numbers, true, null and [lists] are written as in a recipe."""
    if kind is str:
        return text
    if get_origin(kind) in (Union, types.UnionType) and str in get_args(kind):
        return None if text == "null" else text
    try:
        value = _load_yaml(text)
        if get_origin(kind) is tuple and isinstance(value, str):
            value = [_load_yaml(part) for part in value.split(",")]
    except yaml.YAMLError:
        return convert(text, kind, where)
    if get_origin(kind) is tuple and not isinstance(value, list):
        value = [value]
    return convert(value, kind, where)


def _checked(
    kind: type[Any], values: Mapping[Any, Any], prefix: str, where: str
) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in hints:
            near = _nearest(path, [one for one, _, _ in fields()] if prefix else list(hints))
            raise UserError(f"{path}: there is no such field{near} (in {where})")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise UserError(f"{path}: {value!r} is not a section; write its fields below it (in {where})")
            yield name, dict(_checked(typing.cast("type[Any]", hints[name]), value, f"{path}.", where))
        else:
            yield name, convert(value, hints[name], path)


def convert(value: Any, kind: Any, where: str) -> Any:
    """`value` as `kind`, or UserError. A whole number is a number; nothing else is converted."""
    fits, converted = _fit(value, kind)
    if not fits:
        # a mapping holds credentials, and a text that should have been one may hold them in any form
        shown = repr(redact({"": value})[""]) if get_origin(kind) is dict else scrub(repr(value))
        raise UserError(
            f"{where}: {shown} is not allowed; it must be {describe(kind)}{_suggestion(value, kind)}"
        )
    return converted


def _suggestion(value: Any, kind: Any) -> str:
    if get_origin(kind) is Literal and isinstance(value, str):
        return _nearest(value, map(str, get_args(kind)))
    return ""


def _fit(value: Any, kind: Any) -> tuple[bool, Any]:
    origin = get_origin(kind)
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
        return isinstance(value, dict) and all(isinstance(key, str) for key in value), value
    if kind is float:
        if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a text
            try:
                return True, float(value)
            except ValueError:
                return False, None
        return isinstance(value, (int, float)) and not isinstance(value, bool), value
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), value
