"""Dependencies: each is used, each import is declared, each is listed in docs/licences.md with its licence."""

from __future__ import annotations

import ast
import functools
import re
import runpy
import sys
from pathlib import Path

from helpers.support import REPOSITORY

SCRIPT = runpy.run_path(str(REPOSITORY / "docs" / "licences.py"))
DECLARED: list[tuple[str, str]] = list(SCRIPT["direct_dependencies"]())
IMPORTED_AS = {"PyYAML": "yaml", "scikit-learn": "sklearn", "pillow": "PIL", "mlflow-skinny": "mlflow"}
LOADED_BY_OTHERS = {
    "s3fs": "fsspec, by URL",
    "scikit-learn": "dydist.data.builtin, which reads its file of digits",
    "adlfs": "fsspec, by URL",
    "transformers": "Accelerate's DeepSpeed plugin",
    "onnx": "torch.onnx",
    "onnxscript": "torch.onnx",
    "mkdocstrings-python": "zensical",
    "mypy": ".ci/run",
    "ruff": ".ci/run",
    "pytest-cov": ".ci/run",
    "pytest-xdist": "tests/run.sh",
    "types-PyYAML": "mypy",
    "types-psutil": "mypy",
    "zensical": "tests/docs/test_site.py, as a command",
}
COMES_WITH = {
    "asyncssh": "sshfs",
    "botocore": "s3fs",
    "coverage": "pytest-cov",
    "triton": "torch for NVIDIA GPUs",
    "typing_extensions": "torch",
}
"""Modules of packages that a declared one needs and hands to us."""


@functools.cache
def imports(folder: str) -> set[str]:
    """Top-level modules that the files of a folder import, neither Python's own nor ours."""
    found: set[str] = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"dydist", "helpers"}


def test_no_dependency_is_unused() -> None:
    run, tested = imports("dydist"), imports("dydist") | imports("tests")
    unused = [
        name
        for name, extra in DECLARED
        if name not in LOADED_BY_OTHERS
        and IMPORTED_AS.get(name, name.replace("-", "_")) not in (tested if extra == "test" else run)
    ]
    assert not unused
    assert {name for name, _ in DECLARED} >= set(LOADED_BY_OTHERS)


def test_everything_that_is_imported_is_declared() -> None:
    names = {IMPORTED_AS.get(name, name.replace("-", "_")) for name, extra in DECLARED if extra != "test"}
    assert imports("dydist") - names <= set(COMES_WITH)


def test_the_page_lists_each_with_its_extra_and_licence() -> None:
    text = Path(SCRIPT["PAGE"]).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| (\S+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)[2:]
    assert [(name, extra if extra != "–" else "") for name, extra, _, _ in rows] == DECLARED, (
        "run: python docs/licences.py"
    )
    assert set(SCRIPT["PURPOSES"]) == {name for name, _ in DECLARED}
    assert all(licence.strip() for *_, licence in rows)


def test_what_is_pinned_is_needed_or_explained() -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    explained = {"aiobotocore", "boto3", "botocore"}
    pinned = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    assert pinned - explained <= {name for name, _ in DECLARED}
    assert "without these pip tries dozens of versions" in text
