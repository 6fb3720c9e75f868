"""Text from outside (names, logs, manifests, errors) as a terminal, a Markdown page or an HTML page may show it.

No control character, no change of writing direction, no markup and no secret gets through: escape codes can rewrite
what stands on a terminal, `[/x]` is markup to rich, a backtick or a pipe to Markdown, `<` to HTML.
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
    """For a terminal or a log: what is no visible character is written as an escape such as \\x1b or \\u202e.

    `lines`: line breaks and tabs stay, for a text of several lines; otherwise the result is one line.
    """
    shown = scrub(str(text))
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        one if one.isprintable() or (lines and one in "\n\t") or _joins(one) else _escape(one)
        for one in shown
    )


def show(text: object = "", *, lines: bool = False, file: IO[str] | None = None) -> None:
    """Print a line, or with `lines` a text of several, as a terminal may show it; to standard output, or `file`."""
    print(plain(text, lines=lines), file=file, flush=True)


def tell(text: object) -> None:
    """Print a message of our own to standard error: "dydist: …", as a terminal may show it."""
    show(f"dydist: {text}", lines=True, file=sys.stderr)


def cell(text: object, style: str = "", *, lines: bool = False) -> Text:
    """For rich: `plain` text that is no markup, in a table or by itself."""
    from rich.text import Text

    return Text(plain(text, lines=lines), style=style)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Where rich prints tables: no text is markup or the name of an emoji."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False)


def markdown(text: object) -> str:
    """For Markdown: one line of text without any markup in it, also in a table."""
    return _MARKDOWN.sub(r"\\\1", plain(text))


def code(text: object) -> str:
    """For Markdown: one line as code, also in a table."""
    shown = plain(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def html(text: object) -> str:
    """For HTML: text, also as an attribute's value in quotes."""
    return html_module.escape(plain(text, lines=True), quote=True)


def figure(text: object) -> str:
    """For matplotlib: text that is no formula, and that a legend does not leave out."""
    shown = plain(text).replace("\\", "\\\\").replace("$", r"\$") if "$" in str(text) else plain(text)
    return f" {shown}" if shown.startswith("_") else shown


def _joins(one: str) -> bool:
    """Zero-width joiners, which emoji and some scripts are written with."""
    return one in "\u200c\u200d"


def _escape(one: str) -> str:
    if unicodedata.category(one) == "Zs":
        return one  # blanks of other widths
    number = ord(one)
    if number < 0x100:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(one, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
