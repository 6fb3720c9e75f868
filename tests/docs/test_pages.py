"""Links lead somewhere, every page can be found from the map, every fenced command is run or says why not."""

from __future__ import annotations

import ast
import re

import pytest

from helpers.pages import PLAIN, RUNNABLE, Block, anchors, blocks, links, pages, read, target
from helpers.support import REPOSITORY

LOOKED_UP = {"docs/configuration.md", "docs/licences.md", "docs/log.md", "docs/troubleshooting.md"}
"""Pages that are searched, not read from top to bottom."""
ALL = [block for page in pages() for block in blocks(page)]


@pytest.mark.parametrize("page", pages())
def test_links_and_anchors_exist(page: str) -> None:
    assert broken_links(page) == []


def test_a_link_to_nothing_is_found() -> None:
    text = "[a](gone.md) [b](design.md#nowhere) [c](design.md#layout) ![d](images/gone.svg) `[e](code.md)` [f](#g)"
    assert broken_links("docs/index.md", text) == ["gone.md", "design.md#nowhere", "images/gone.svg", "#g"]


def broken_links(page: str, text: str | None = None) -> list[str]:
    """Links of a page whose file, or whose heading in it, is not there."""
    found = []
    for link in links(page, text):
        file, anchor = target(page, link)
        inside = file.suffix == ".md" and file.is_file() and file.resolve().is_relative_to(REPOSITORY)
        known = anchors(file.resolve().relative_to(REPOSITORY).as_posix()) if inside else set()
        if not file.exists() or (anchor and anchor not in known):
            found.append(link)
    return found


def test_the_map_has_every_page_and_the_readme_has_the_map() -> None:
    named = {target("docs/index.md", link)[0].resolve() for link in links("docs/index.md")}
    there = {(REPOSITORY / page).resolve() for page in pages() if page.startswith("docs/")}
    assert there - named == {REPOSITORY / "docs" / "index.md"}
    assert "docs/index.md" in links("README.md")


def test_pages_that_the_code_names_exist() -> None:
    files = [*(REPOSITORY / "dydist").rglob("*.py"), *(REPOSITORY / "launch").rglob("*.yaml")]
    named = {
        page for file in files for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= set(pages())


@pytest.mark.parametrize("page", sorted(set(pages()) - LOOKED_UP))
def test_a_guide_has_at_most_1200_words(page: str) -> None:
    """What was tried, long tables and measurements belong in docs/notes/."""
    assert page.startswith("docs/notes/") or len(read(page).split()) <= 1200


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_command_is_run_or_says_why_not(block: Block) -> None:
    assert problem(block) is None, f"{block}: {problem(block)}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```bash\nls\n```", "no mark"),
        ("<!-- run -->\n```\nls\n```", "language"),
        ("<!-- not run: no -->\n```bash\nls\n```", "reason"),
        (
            "<!-- run in tests/docs/test_pages.py::test_that_is_not_there -->\n```bash\nls\n```",
            "no such test",
        ),
        ("<!-- run in tests/docs/test_gone.py::test_x -->\n```bash\nls\n```", "no such test"),
        ("<!-- runs -->\n```bash\nls\n```", "no mark"),
        ("<!-- run -->\n\n```bash\nls\n```", None),
        ("<!-- run in tests/docs/test_pages.py::problem -->\n```bash\nls\n```", "no such test"),
    ],
)
def test_a_block_without_a_good_mark_is_found(text: str, said: str | None) -> None:
    (block,) = blocks("page.md", text)
    found = problem(block)
    assert found is None if said is None else said in str(found)


def problem(block: Block) -> str | None:
    """What is wrong with how a block is marked; None where nothing is."""
    if block.language not in (*RUNNABLE, *PLAIN):
        return f"its language {block.language!r} is none of {', '.join((*RUNNABLE, *PLAIN))}"
    if block.language in PLAIN or block.mark == "run":
        return None
    if reason := re.fullmatch(r"not run: (.+)", block.mark):
        return None if len(reason[1].split()) >= 3 else "its reason not to be run is too short"
    if named := re.fullmatch(r"run in (tests/\S+\.py)::(test_\w+)(, .+)?", block.mark):
        file = REPOSITORY / named[1]
        functions = (
            [one for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.FunctionDef)]
            if (file.is_file())
            else []
        )
        return (
            None
            if named[2] in [one.name for one in functions]
            else f"there is no such test: {block.mark[7:]}"
        )
    if block.mark.startswith("run in"):
        return f"there is no such test: {block.mark[7:]}"
    return f"it has no mark (tests/helpers/pages.py); it has {block.mark!r}"
