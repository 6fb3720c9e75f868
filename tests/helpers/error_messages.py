"""Every message that a user can be told by an error, out of the source: values are `…`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping

from helpers.support import REPOSITORY

ERRORS = "UserError SlurmError NoAnswerError QueuedError DivergedError CheckpointError DamagedError".split()
ERRORS += "LeaseLostError LeaseHeldError NewerFormatError ConnectionError".split()
CHECKS = ("dydist/config/rules.py", "dydist/jobs/submission/profile_rules.py")
"""Files whose generators yield messages for one error to join."""


@functools.cache
def messages() -> Mapping[str, str]:
    """Each message, and where it stands."""
    files = sorted((REPOSITORY / "dydist").rglob("*.py"))
    trees = {
        path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files
    }
    constants = {name: text for tree in trees.values() for name, text in _constants(tree)}
    found: dict[str, str] = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            for text in _messages_of(node, constants, yields=name in CHECKS):
                if says_something(text):
                    found[text] = f"{name}:{getattr(node, 'lineno', 0)}"
    return found


def says_something(text: str) -> bool:
    """Whether there is more than values in it."""
    return len(re.findall(r"[a-z]", text)) >= 6


def _messages_of(node: ast.AST, constants: Mapping[str, str], *, yields: bool) -> Iterator[str]:
    """What is raised by this node; or is kept as a `problem` that another line raises."""
    said: ast.expr | None = None
    if isinstance(node, ast.Call) and node.args:
        listed = (
            isinstance(node.func, ast.Attribute) and node.func.attr == "append" and _name(node.func.value)
        )
        said = node.args[0] if _name(node.func) in ERRORS or listed == "problems" else None
    elif (isinstance(node, ast.Assign) and _name(node.targets[0]) == "problem") or (
        isinstance(node, ast.Yield) and yields
    ):
        said = node.value
    elif isinstance(node, ast.FunctionDef) and node.name == "_problem":
        yield from (
            _template(one.value, constants) for one in node.body if isinstance(one, ast.Return) and one.value
        )
    if said is None:
        return
    text = _template(said, constants)
    if says_something(text):
        yield text
    else:  # "\n".join(… for …)
        yield from (_template(part, constants) for part in ast.walk(said) if isinstance(part, ast.JoinedStr))


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Texts that a module names."""
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield _name(node.targets[0]), node.value.value


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _template(node: ast.expr, constants: Mapping[str, str]) -> str:
    """A text with `…` for what is not written out."""
    return re.sub(r"…+", "…", "".join(_parts(node, constants)))


def _parts(node: ast.expr, constants: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _parts(part, constants)
    elif isinstance(node, ast.FormattedValue):
        yield from _parts(node.value, constants) if node.conversion == -1 else "…"
    elif isinstance(node, ast.Name | ast.Attribute):
        yield constants.get(_name(node), "…")
    elif isinstance(node, ast.BinOp):
        yield from _parts(node.left, constants)
        yield from _parts(node.right, constants)
    else:
        yield "…"
