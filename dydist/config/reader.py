"""Reads a configuration from a YAML file and flags, with errors that name the field and the allowed values."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from dydist.config import Config
from dydist.config.shipped import RECIPES, find_file
from dydist.config.types import convert, hints_of, nearest, shown, takes_text
from dydist.errors import UserError
from dydist.text.redaction import fill_hidden, is_open, redact, redact_url, refuse_hidden, register_secrets
from dydist.text.strict import TextError, dump_yaml, load_yaml, read_user_text


def read_config(arguments: Sequence[str]) -> Config:
    """The configuration of command-line arguments: `[--config FILE] [--section.field VALUE]…`.

    Raises UserError for anything unknown, of the wrong type or out of range. Prints the help and raises SystemExit(0)
    on --help. The caller, who knows the world size, calls `check_config`.
    """
    found: Config = build(Config, read_given(arguments))
    return found


def read_given(arguments: Sequence[str], under: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values in the arguments, nested, read as by `read_config`; without defaults.

    `under`: checked values (`values_of`), which flags override and a `--config` file replaces.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        from dydist.config.help import print_help

        print_help()
        raise SystemExit(0)
    file, flags = _split(arguments)
    values = copy.deepcopy(dict(under or {}))
    if file is not None:
        values = read_yaml(find_file(file, RECIPES))
    for path, text in flags:
        _set(values, path, _parse(text, _field_type(path), f"--{path}"))
    values = fill_hidden(values, os.environ)
    refuse_hidden(values)
    register_secrets(build(Config, values))
    return values


def values_of(config: str | os.PathLike[str] | Mapping[str, Any] | Config | None) -> dict[str, Any]:
    """The values of a recipe, a mapping or a `Config`, nested and checked field by field; without defaults.

    A recipe is a path, or the name of one that comes with dydist. A mapping has sections, or `section.field` as its
    names. Raises UserError.
    """
    if config is None:
        return {}
    if isinstance(config, str | os.PathLike):
        return read_yaml(find_file(os.fspath(config), RECIPES))
    given: dict[str, Any] = {}
    if isinstance(config, Config):
        usual = flatten_sections(to_dict(Config()))
        for path, value in flatten_sections(to_dict(config)).items():
            if value != usual[path]:
                _set(given, path, value)
    else:
        for name, value in config.items():
            if isinstance(value, Mapping) and "." not in name:
                given.setdefault(name, {}).update(value)
            else:
                _set(given, name, value)
    return dict(_checked(Config, _without_paths(given), "", "config"))


def _without_paths(value: Any) -> Any:
    """Nested values with paths as text."""
    if isinstance(value, Mapping):
        return {name: _without_paths(one) for name, one in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def read_yaml(file: Path) -> dict[str, Any]:
    """A recipe or a written config.yaml as nested dictionaries, checked field by field.

    In the latter, secrets are HIDDEN: `dydist.text.redaction` has what becomes of them.
    """
    try:
        values = load_yaml(read_user_text(file))
    except OSError as error:
        raise UserError(
            f"--config: cannot read {file} ({error.strerror}); give the path of a YAML file, or the name of a recipe "
            "that `dydist files` lists, such as quickstart"
        ) from error
    except TextError as error:
        raise UserError(f"--config: {file} is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"--config: {file} holds a {type(values).__name__}; it must hold sections such as 'model:'"
        )
    return dict(_checked(Config, values, "", str(file)))


def redacted_values(values: Mapping[str, Any], kind: type[Any] = Config) -> dict[str, Any]:
    """Nested values, as `read_yaml` gives them, without their secrets."""
    hints, result = hints_of(kind), dict(values)
    opened = {field.name for field in dataclasses.fields(kind) if is_open(field)}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            result[name] = redacted_values(value, typing.cast("type[Any]", hints[name]))
        elif isinstance(value, Mapping):
            result[name] = redact(value, open_=name in opened)
        elif isinstance(value, str):
            result[name] = redact_url(value)
    return result


def check_flags(arguments: Sequence[str]) -> None:
    """Raise UserError if the arguments are not flags of fields, each with a value; the values are not checked."""
    _split(arguments)


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
                section, _, name = path.rpartition(".")
                fields_there = dataclasses.fields(hints_of(Config)[section])
                masked = redact(values, open_=any(f.name == name and is_open(f) for f in fields_there))
                text = text if masked == values else json.dumps(masked)
            else:
                text = redact_url(text)
        if equals:
            result[-1] += f"={text}"
        else:
            result.append(text)
    return result


def build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass from nested, checked values; missing ones have their default."""
    hints = hints_of(kind)
    return kind(
        **{
            name: build(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """The inverse of `to_dict`, with every field checked. Raises UserError, which names `where`."""
    found: Config = build(Config, dict(_checked(Config, values, "", where)))
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values for YAML and JSON."""
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
    """Nested sections → values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def flatten_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """As `flatten`, for a whole configuration, with fields that are mappings as they are."""
    return {
        path: values[section][name] if name else values[section]
        for path, _, _ in fields()
        for section, _, name in [path.partition(".")]
    }


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, without its empty mappings."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        _set(nested, name, value)
    return nested


def to_yaml(config: Config) -> str:
    """All values as YAML for `--config`. The caller redacts secrets first."""
    return dump_yaml(to_dict(config))


def fields(kind: type[Any] = Config, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, type, default) of every field, in order."""
    hints = hints_of(kind)
    for field in dataclasses.fields(kind):
        path = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from fields(hints[field.name], f"{path}.")
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            yield path, hints[field.name], default


def _split(arguments: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The --config file, and (path, text) of the flags. Both `--a.b c` and `--a.b=c` are taken.

    Of a flag that is given twice the last counts, as in any shell; two files are an error.
    """
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
            if not rest or _is_flag(rest[0]):
                raise UserError(f"--{name}: a value is missing; write --{name} VALUE")
            text = rest.pop(0)
        if name == "config":
            if file is not None:
                raise UserError(
                    f"--config: given twice, {file} and {text}; give one file, and what differs from it as flags"
                )
            file = text
        else:
            flags.append((name, text))
    return file, flags


def _is_flag(word: str) -> bool:
    """Whether `word` is a flag of a run, and so not the value of the flag before it."""
    name, _, _ = word.removeprefix("--").replace("-", "_").partition("=")
    return word.startswith("--") and (name == "config" or name in {path for path, _, _ in fields()})


def _field_type(path: str) -> Any:
    known = {name: kind for name, kind, _ in fields()}
    if path not in known:
        raise UserError(f"--{path}: there is no such field{nearest(path, known)} (--help lists all)")
    return known[path]


def read_value(path: str, text: str) -> Any:
    """The value of a field that a flag's text gives; equal ones compare equal: `1e-3` and `0.001`. Raises UserError."""
    value = _parse(text, _field_type(path), f"--{path}")
    as_float = "float" in str(_field_type(path))
    if isinstance(value, tuple):
        return tuple(float(one) if as_float else one for one in value)
    return float(value) if as_float and isinstance(value, int) else value


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value


def _parse(text: str, kind: Any, where: str) -> Any:
    """Parse a flag's text as YAML, so that numbers, true, null and [lists] are written as in a recipe."""
    if takes_text(kind):
        return convert(None if text == "null" and type(None) in get_args(kind) else text, kind, where)
    if not text.strip():
        raise UserError(f"{where}: a value is missing ({text!r} is empty); write {where} VALUE")
    try:
        value = load_yaml(text)
        if get_origin(kind) is tuple and isinstance(value, str):
            value = [load_yaml(part) for part in value.split(",")]
    except TextError as error:
        if get_origin(kind) is dict:  # what was given may hold a secret
            raise UserError(f"{where}: it is not a mapping as YAML writes one: {error}") from None
        return convert(text, kind, where)
    if get_origin(kind) is tuple and not isinstance(value, list):
        value = [value]
    return convert(value, kind, where)


def _checked(
    kind: type[Any], values: Mapping[Any, Any], prefix: str, where: str
) -> Iterator[tuple[str, Any]]:
    hints = hints_of(kind)
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in hints:
            near = nearest(path, [one for one, _, _ in fields()] if prefix else list(hints))
            raise UserError(f"{path}: there is no such field{near} (in {where})")
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{path}: {shown(value)} is not a section; write its fields below it (in {where})"
                )
            yield name, dict(_checked(typing.cast("type[Any]", hints[name]), value, f"{path}.", where))
        else:
            try:
                yield name, convert(value, hints[name], path)
            except UserError as error:
                raise UserError(f"{error} (in {where})") from None
