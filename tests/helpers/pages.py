"""The pages for people (README.md, docs/, launch/README.md): their links, headings and fenced blocks.

Every block of bash or python says in a comment before it, invisible to readers, how it is known to work:

    <!-- run -->                                      tests/docs runs it; the blocks of a page run in order
    <!-- run in tests/run/test_train.py::test_x, why -->  another test runs it
    <!-- not run: needs eight GPUs -->                nothing runs it; its commands are still parsed
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from helpers.support import REPOSITORY

RUNNABLE = ("bash", "python")
PLAIN = ("text", "diff", "yaml", "json")
_FENCE = re.compile(r"^\s*```(\S*)\s*$")
_MARK = re.compile(r"^\s*<!-- ((?:not )?run\b.*?) -->\s*$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence (from 1), its language, its text, and its mark or ''."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page, by its path in the repository."""
    found = [
        REPOSITORY / "README.md",
        REPOSITORY / "launch" / "README.md",
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in found)


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, text: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    body: list[str] | None = None
    mark = before = language = ""
    first = 0
    for number, line in enumerate((read(page) if text is None else text).splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and body is None:
            first, language, body = number, fence[1], []
            marked = _MARK.match(before)
            mark = marked[1] if marked else ""
        elif fence and body is not None:
            found.append(Block(page, first, language, "\n".join(body) + "\n", mark))
            body, before = None, ""
        elif body is not None:
            body.append(line)
        elif line.strip():
            before = line
    return found


def without_blocks(text: str) -> str:
    """A page's prose: fenced blocks and code spans taken out."""
    lines, inside = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("[", " "), "\n".join(lines))


def links(page: str, text: str | None = None) -> list[str]:
    """Every link and picture that is not on another site."""
    found = _LINK.findall(without_blocks(read(page) if text is None else text))
    return [link for link in found if "://" not in link and not link.startswith("mailto:")]


def anchors(page: str) -> set[str]:
    """What `#…` may follow a page's name: GitHub's form of its headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(without_blocks(read(page))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        copies = sum(
            one == slug or (one.startswith(f"{slug}-") and one[len(slug) + 1 :].isdigit()) for one in found
        )
        found.add(f"{slug}-{copies}" if copies else slug)
    return found


def target(page: str, link: str) -> tuple[Path, str]:
    """The file and the anchor that a link of a page points to."""
    path, _, anchor = link.partition("#")
    return ((REPOSITORY / page).parent / path if path else REPOSITORY / page), anchor
