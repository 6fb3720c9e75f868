"""The documentation site: it builds without a warning, holds every page, and documents every public name."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dydist.storage.protocol import Storage
from helpers.pages import pages, read
from helpers.support import REPOSITORY, missing

DOCUMENTED = ("models", "train", "checkpoint", "data")
ZENSICAL = Path(sys.executable).parent / "zensical"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of Markdown extensions."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def public_names(package: str) -> list[str]:
    """What `dydist.<package>` offers: its `__all__`, else the functions and classes that it defines."""
    module = importlib.import_module(f"dydist.{package}")
    defined = [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    ]
    return [name for name in getattr(module, "__all__", defined) if not name.startswith("_")]


@pytest.mark.long
def test_the_site_builds_strictly_with_every_page_and_every_public_name(tmp_path: Path) -> None:
    """One test, because each process that runs a part of it would build the site anew."""
    if sys.version_info < (3, 11):
        pytest.skip("zensical needs Python 3.11")
    if not ZENSICAL.exists():
        missing("zensical (pip install 'dydist[docs]')")
    site = build(tmp_path)
    found = json.loads((site / "search.json").read_text(encoding="utf-8"))
    searched = {item["location"].partition("#")[0] for item in found["items"]}
    expected = {
        page.removeprefix("docs/").replace(".md", ".html") for page in pages() if page.startswith("docs/")
    }
    assert expected <= {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert expected <= searched
    for package in DOCUMENTED:
        html = (site / "api" / f"{package}.html").read_text(encoding="utf-8")
        assert [name for name in public_names(package) if f'id="dydist.{package}.{name}"' not in html] == []


def build(folder: Path) -> Path:
    """Copy docs and code to `folder`, build the site there strictly, and return the site's folder."""
    for name in ("docs", "dydist"):
        ignored = shutil.ignore_patterns("__pycache__", "files")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "mkdocs.yml", folder)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [ZENSICAL, "build", "--strict"]
    done = subprocess.run(
        command, cwd=folder, env={**variables, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=300
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "griffe:" not in said, said  # what it says of docstrings is no warning to zensical
    return folder / "build" / "site"


@pytest.mark.parametrize("package", DOCUMENTED)
def test_every_public_name_has_an_entry_and_a_docstring(package: str) -> None:
    names = public_names(package)
    entries = re.findall(rf"^::: dydist\.{package}\.(\w+)$", read(f"docs/api/{package}.md"), re.MULTILINE)
    assert sorted(entries) == sorted(names)
    module = importlib.import_module(f"dydist.{package}")
    assert [one for name in names for one in undocumented(name, getattr(module, name))] == []


def undocumented(name: str, value: Any) -> Iterator[str]:
    """The name, and the methods of a class, that have no docstring; a dataclass's generated one is none."""
    if not value.__doc__ or value.__doc__.startswith(f"{name}("):
        yield name
    if inspect.isclass(value):
        for method, code in vars(value).items():
            public = isinstance(code, property) or callable(getattr(value, method, None))
            explained = inspect.getdoc(getattr(value, method, None)) or hasattr(Storage, method)
            if public and not method.startswith("_") and not explained:
                yield f"{name}.{method}"


def test_the_navigation_has_every_page_once() -> None:
    config = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    listed = [
        page for part in config["nav"] for entry in next(iter(part.values())) for page in entry.values()
    ]
    assert sorted(f"docs/{page}" for page in listed) == [page for page in pages() if page.startswith("docs/")]
