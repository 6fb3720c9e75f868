"""Escapes untrusted text (names, logs, manifests, errors) for a terminal, a Markdown page or an HTML page.

It removes control characters, changes of writing direction, markup and secrets: escape codes can rewrite a terminal,
`[/x]` is markup for rich, a backtick or a pipe for Markdown, `<` for HTML.
"""

from __future__ import annotations

import html as html_module
import re
import sys
import unicodedata
from typing import IO, TYPE_CHECKING

from dydist.text.redaction import scrub

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&:@-])")


def plain(text: object, *, lines: bool = False) -> str:
    """For a terminal or a log: invisible characters become escapes such as \\x1b or \\u202e.

    `lines`: keep line breaks and tabs; otherwise the result is one line.
    """
    shown = scrub(str(text))
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        one if one.isprintable() or (lines and one in "\n\t") or _joins(one) else _escape(one)
        for one in shown
    )


def show(text: object = "", *, lines: bool = False, file: IO[str] | None = None) -> None:
    """Print `plain` text, of several lines with `lines`, to standard output or `file`."""
    print(plain(text, lines=lines), file=file, flush=True)


def tell(text: object) -> None:
    """Print "dydist: <text>", as `plain` text, to standard error."""
    show(f"dydist: {text}", lines=True, file=sys.stderr)


def cell(text: object, style: str = "", *, lines: bool = False) -> Text:
    """For rich: `plain` text without markup, in a table or on its own."""
    from rich.text import Text

    return Text(plain(text, lines=lines), style=style)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A rich console that interprets neither markup nor emoji names."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False)


def markdown(text: object) -> str:
    """For Markdown: one line of text with all markup escaped, also in a table."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def code(text: object) -> str:
    """For Markdown: one line as code, also in a table."""
    shown = plain(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def html(text: object) -> str:
    """For HTML: escaped text, also for quoted attribute values."""
    return html_module.escape(plain(text, lines=True), quote=True)


def figure(text: object) -> str:
    """For matplotlib: text without formulas, which a legend does not hide."""
    shown = plain(text).replace("\\", "\\\\").replace("$", r"\$") if "$" in str(text) else plain(text)
    return f" {shown}" if shown.startswith("_") else shown


def _joins(one: str) -> bool:
    """Whether `one` is a zero-width joiner, which emoji and some scripts need."""
    return one in "\u200c\u200d"


def _escape(one: str) -> str:
    if unicodedata.category(one) == "Zs":
        return one  # spaces of other widths
    number = ord(one)
    if number < 0x100:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(one, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
