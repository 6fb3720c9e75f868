"""Loads the user's own functions, which the configuration names as `package.module:function`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from dydist.errors import UserError


def load_function(field: str, name: str) -> Callable[..., Any]:
    """The function `name`, a value of the field `field`. Raises UserError if there is none.

    Its module is searched for on Python's path, and then in the working folder.
    """
    module_name, _, attributes = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]
        why = f"there is no module {error.name}" if missing else f"its import failed: {describe_error(error)}"  # type: ignore[attr-defined]
        raise UserError(
            f"{field}: {name}: {why}; put its folder on PYTHONPATH, start in that folder, or install it"
        ) from error
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
