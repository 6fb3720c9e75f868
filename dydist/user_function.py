"""Loads the user's own functions, which the configuration names as `package.module:function`.

A program may pass the objects themselves (`dydist.train`, `dydist.load`). They get such a name too: that of the
function in its module or script, or `given:NAME` if it cannot be imported.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dydist.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

UNNAMED = "given"
"""In the name of an object that was passed and cannot be imported: stands for the module."""
_PASSED: ContextVar[Mapping[tuple[str, str], Any]] = ContextVar("passed", default=MappingProxyType({}))
_IMPORTING: ContextVar[str] = ContextVar("importing", default="")


def load_function(field: str, name: str) -> Callable[..., Any]:
    """The function `name`, a value of the field `field`. Raises UserError if there is none.

    It is a passed object (`passing`), or its module is searched for on Python's path, and then in the working folder.
    """
    if (passed := _PASSED.get().get((field, name))) is not None:
        found_before: Callable[..., Any] = passed
        return found_before
    refuse_unnamed(field, name, "start the same program")
    module_name, _, attributes = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    token = _IMPORTING.set(module_name)
    try:
        found: Any = importlib.import_module(module_name)
    except UserError:
        raise
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]
        why = f"there is no module {error.name}" if missing else f"its import failed: {describe_error(error)}"  # type: ignore[attr-defined]
        raise UserError(
            f"{field}: {name}: {why}; put its folder on PYTHONPATH, start in that folder, or install it"
        ) from error
    finally:
        _IMPORTING.reset(token)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise UserError(
                f"{field}: {name}: {module_name} has no {attributes}; name a function that it has"
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise UserError(f"{field}: {name} is a {type(found).__name__}; it must be a function")
    function: Callable[..., Any] = found
    return function


def describe_error(error: BaseException) -> str:
    """The error in one line, with the innermost line of its traceback outside torch's code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    last = frames[-1] if frames else None
    where = "" if last is None else f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def load_added(group: str, name: str) -> Any | None:
    """What an installed package adds as `name` to an entry-point group such as `dydist.data_sets`; None if none does.

    Packages are searched at the first use of a name only, since that takes time. Raises UserError if the object cannot
    be loaded, or two packages add one under the same name.
    """
    found = _entry_points(group, name)
    if not found:
        return None
    if len({one.value for one in found}) > 1:
        packages = " and ".join(sorted(one.dist.name if one.dist else one.value for one in found))
        raise UserError(f"{name}: {packages} both add it to {group}; uninstall one of them")
    try:
        return found[0].load()
    except Exception as error:
        package = found[0].dist.name if found[0].dist else "a package"
        raise UserError(
            f"{name}: {package} adds it to {group} as {found[0].value}, which cannot be loaded: "
            f"{describe_error(error)}; mend or uninstall that package"
        ) from error


def is_added(group: str, name: str) -> bool:
    """Whether an installed package adds `name` to an entry-point group. Loads nothing of it."""
    return bool(_entry_points(group, name))


@cache
def _entry_points(group: str, name: str) -> tuple[EntryPoint, ...]:
    from importlib.metadata import (
        entry_points,
    )  # here: its import takes time, and most runs name nothing added

    return tuple(entry_points(group=group, name=name))


def refuse_unnamed(field: str, name: str, advice: str) -> None:
    """Raise UserError with `advice` if `name` is that of an object which was passed in training, and not now."""
    if name.partition(":")[0] == UNNAMED and (field, name) not in _PASSED.get():
        raise UserError(
            f"{field}: {name} was passed to dydist.train as an object, which cannot be imported; {advice}, or "
            "train with a function that a module or script defines at its top level"
        )


@contextmanager
def passing(objects: Mapping[tuple[str, str], Any]) -> Iterator[None]:
    """Within, these objects are found by their field and name (`name_of`); two lambdas have the same name."""
    token = _PASSED.set({**_PASSED.get(), **objects})
    try:
        yield
    finally:
        _PASSED.reset(token)


def is_passed(field: str, name: str) -> bool:
    """Whether `name` is that of an object which was passed for `field`."""
    return (field, name) in _PASSED.get()


def is_of_script(field: str, name: str) -> bool:
    """Whether `name` is that of an object passed for `field` which belongs to the running program, not to a module."""
    passed = _PASSED.get().get((field, name))
    return passed is not None and (
        name.partition(":")[0] == UNNAMED or getattr(passed, "__module__", None) == "__main__"
    )


def name_of(thing: Any) -> str:
    """The name under which `thing` is recorded: `package.module:function`, or `given:NAME` if it cannot be imported."""
    module, name = (
        getattr(thing, "__module__", None),
        str(getattr(thing, "__qualname__", type(thing).__name__)),
    )
    there = sys.modules.get(str(module))
    if name.isidentifier() and getattr(there, name, None) is thing:
        importable = _script_module() if module == "__main__" else module
        if importable is not None and all(part.isidentifier() for part in importable.split(".")):
            return f"{importable}:{name}"
    return f"{UNNAMED}:{re.sub(r'[^0-9A-Za-z_]', '', name.rpartition('.')[2])}"


def _script_module() -> str | None:
    """The name under which the running program can be imported; None in a notebook or a terminal."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m
        return str(spec.name)
    return Path(file).stem if file is not None and file.endswith(".py") else None


def refuse_while_imported() -> None:
    """Raise UserError if the caller runs because its module is being imported by `load_function`."""
    if module := _IMPORTING.get():
        raise UserError(
            f"{module}: it calls dydist.train while it is imported for a function in it; put that call below "
            "if __name__ == '__main__':"
        )
