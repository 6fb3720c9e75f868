"""Parses a subcommand's arguments by its function's signature; every mistake is reported in one line.

Values are read as in a run's flags (`config.reader`): integers are decimal digits, `~` in a path is expanded. tyro
prints the help from the same signature.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, UseAppendAction

from dydist.config.reader import fields
from dydist.config.types import Added, Range, convert, expanded_path, is_path, nearest, takes_text
from dydist.errors import UserError
from dydist.storage.places import folder_problem
from dydist.text.strict import TextError, load_yaml


@dataclasses.dataclass(frozen=True)
class Option:
    """One parameter of a command. `keys`: where its value goes, more than one within a dataclass."""

    keys: tuple[str, ...]
    kind: Any
    positional: bool
    appended: bool
    required: bool
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name on the command line: parameters that would shadow a builtin end with an underscore."""
        return self.keys[-1].rstrip("_").replace("_", "-")


def bind(command: str, function: Callable[..., Any], words: Sequence[str]) -> Callable[[], Any]:
    """The call of `function` with the arguments `words`, for the caller to make. Raises UserError.

    `--help` prints the help and raises SystemExit(0).
    """
    ours = words[: words.index("--")] if "--" in words else words
    if "-h" in ours or "--help" in ours:
        import tyro

        tyro.cli(function, prog=command, args=["--help"])
    options = list(options_of(function))
    given = _read(command, options, list(words))
    arguments: dict[str, Any] = {}
    for name, kind in get_type_hints(function).items():
        if dataclasses.is_dataclass(kind):
            own = {
                option.keys[1]: given[option]
                for option in options
                if option.keys[0] == name and option in given
            }
            arguments[name] = kind(**own)  # type: ignore[operator]
    arguments |= {option.keys[0]: value for option, value in given.items() if len(option.keys) == 1}
    positional = [
        arguments.pop(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY and name in arguments
    ]
    return functools.partial(function, *positional, **arguments)


def options_of(function: Callable[..., Any]) -> Iterator[Option]:
    """Every option and positional argument of a command, in order."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, _ = _unmarked(hints[name])
        if dataclasses.is_dataclass(kind):
            inner = get_type_hints(kind, include_extras=True)
            for field in dataclasses.fields(kind):
                yield _option((name, field.name), inner[field.name], required=False)
        else:
            yield _option((name,), hints[name], required=parameter.default is parameter.empty)


def _option(keys: tuple[str, ...], hint: Any, *, required: bool) -> Option:
    kind, marks = _unmarked(hint)
    return Option(
        keys=keys,
        kind=kind,
        positional=Positional in marks,
        appended=UseAppendAction in marks,
        required=required,
        aliases=tuple(alias for mark in marks for alias in getattr(mark, "aliases", None) or ()),
    )


def _unmarked(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without tyro's annotations, and these. Annotations of paths are kept."""
    if get_origin(hint) is not Annotated:
        return hint, ()
    kind, *marks = get_args(hint)
    keeps = is_path(hint) or any(isinstance(mark, Range | Added) for mark in marks)
    return (hint if keeps else kind), tuple(marks)


def _read(command: str, options: Sequence[Option], words: list[str]) -> dict[Option, Any]:
    named = {option.name: option for option in options if not option.positional}
    short = {alias: option for option in named.values() for alias in option.aliases}
    given: dict[Option, Any] = {}
    plain: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            if any(option.name == "run" for option in options):
                _refuse_ours(command, words, named)
            plain += words
            break
        if word in short:
            word = f"--{short[word].name}"
        if not word.startswith("--"):
            if word.startswith("-") and not word[1:2].isdigit() and word != "-":
                raise UserError(f"{word}: {command} has no such option ({command} --help lists all)")
            plain.append(word)
            continue
        flag, equals, text = word.partition("=")
        name = flag[2:].replace("_", "-")
        option = named.get(name) or named.get(name.removeprefix("no-"))
        if option is None or (name not in named and option.kind is not bool):
            raise UserError(_unknown(command, flag, options))
        if option.kind is bool:
            if equals:
                raise UserError(
                    f"{flag}: takes no value, and {text!r} was given; write {flag} or leave it out"
                )
            given[option] = name in named
            continue
        texts = [text] if equals else []
        most = None if _is_list(option.kind) else 1
        while not equals and words and not words[0].startswith("--") and (most is None or len(texts) < most):
            texts.append(words.pop(0))
        if not texts:
            raise UserError(f"{flag}: a value is missing; write {flag} VALUE")
        if option.appended:
            given[option] = (*given.get(option, ()), tuple(texts))
        else:
            given[option] = (
                _values(texts, option.kind, flag) if most is None else _value(texts[0], option.kind, flag)
            )
    given |= _positional(command, [option for option in options if option.positional], plain)
    for option in options:
        if option.required and option not in given:
            raise UserError(
                f"--{option.name}: a value is missing; write --{option.name} VALUE (see {command} --help)"
            )
    return given


def _positional(command: str, options: Sequence[Option], words: list[str]) -> dict[Option, Any]:
    """Positional arguments: one word each; the last one may take several."""
    given: dict[Option, Any] = {}
    for option in options:
        if _is_list(option.kind):
            if words or option.required:
                given[option] = _values(words, option.kind, option.name)
            words = []
        elif words:
            given[option] = _value(words.pop(0), option.kind, option.name)
        elif option.required:
            usage = " ".join(one.name.upper() for one in options)
            raise UserError(
                f"{option.name}: a value is missing; write {command} {usage} ({command} --help says what it is)"
            )
    if words:
        raise UserError(f"{words[0]!r}: {command} takes no such word ({command} --help lists what it takes)")
    return given


def _unknown(command: str, flag: str, options: Sequence[Option]) -> str:
    if "." in flag and any(option.name == "run" for option in options):
        return (
            f"{flag}: {command} has no such option; a run's own flags come after --: -- RECIPE {flag} VALUE"
        )
    near = nearest(flag, [f"--{option.name}" for option in options if not option.positional])
    return f"{flag}: {command} has no such option{near} ({command} --help lists all)"


def _refuse_ours(command: str, words: Sequence[str], named: Mapping[str, Option]) -> None:
    """Raise UserError if an option of dydist, or a similar word, is among the run's own flags, after `--`."""
    paths = [path for path, _, _ in fields()]
    ends = {path.rpartition(".")[2].replace("_", "-") for path in paths}
    for word in words:
        flag = word.partition("=")[0]
        name = flag[2:].replace("_", "-")
        if not flag.startswith("--") or "." in name or name in paths:
            continue
        close = [] if name in ends else difflib.get_close_matches(name, named, n=1, cutoff=0.8)
        if name in named or close:
            what = "it is" if name in named else f"did you mean --{close[0]}? That is"
            raise UserError(
                f"{flag}: {what} an option of {command}; write it before --, in front of the recipe"
            )


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _values(texts: Sequence[str], kind: Any, where: str) -> tuple[Any, ...]:
    return tuple(_value(text, get_args(kind)[0], where) for text in texts)


def _value(text: str, kind: Any, where: str) -> Any:
    """One word as a value of this type. Raises UserError."""
    if is_path(kind) or _mentions(Path, kind):
        path = expanded_path(text, where)
        if where.startswith("--") and (
            problem := folder_problem(path)
        ):  # words may be URLs, no option is one
            raise UserError(f"{where}: {problem}")
        return path if is_path(kind) else Path(path)
    if takes_text(kind) or _mentions(Literal, kind):
        return convert(text, kind, where)
    if not text.strip():
        raise UserError(f"{where}: a value is missing ({text!r} is empty); write {where} VALUE")
    try:
        value = convert(load_yaml(text), kind, where)
    except TextError:
        value = convert(text, kind, where)
    for limit in _ranges(kind):
        limit.check(value, where)
    return value


def _ranges(kind: Any) -> Iterator[Range]:
    if get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _ranges(one)
    elif get_origin(kind) is Annotated:
        yield from (mark for mark in get_args(kind) if isinstance(mark, Range))


def _mentions(what: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType, Annotated):
        return any(_mentions(what, one) for one in get_args(kind))
    return kind is what or get_origin(kind) is what
