"""Text from outside is shown as text: no escape code, no change of direction, no markup."""

from __future__ import annotations

import ast
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.text.display import cell, code, console, figure, html, markdown, plain, show
from helpers.hostile_text import VISIBLE
from helpers.support import REPOSITORY

HOSTILE = (
    "[/x]", "[bold red]x[/bold red]", "[link=http://evil]x", ":boom:", "\x1b[2J\x1b[31m", "\x9b31m", "a\rb", "a\nb",
    "\u202egnp.exe", "\u2066x\u2069", "\u200e\u200f\u061c", "a\u2028b", "\x00\x07\x7f", "\udc80", "`rm -rf`", "a|b",
    "<script>alert(1)</script>", "\" onload=x '", "$\\frac{1", "_x", "![x](http://evil)", "# title", "&lt;", "\ue000",
    "``x`", "\\", "=1+1", "sftp://me:hunter22@host/x",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_it_as_text(text: str) -> None:
    shown = plain(text)
    assert VISIBLE.search(shown) is None
    assert "\n" not in shown
    shown.encode()
    assert "hunter22" not in shown


@given(st.text(st.characters(), max_size=60))
def test_whatever_is_shown_can_be_seen(text: str) -> None:
    for shown in (plain(text), plain(text, lines=True), markdown(text), code(text), html(text), figure(text)):
        assert VISIBLE.search(shown) is None
        shown.encode()
    assert "\n" not in plain(text)


@given(
    st.text(st.characters(categories=("L", "N", "P", "S")), max_size=60).filter(
        lambda t: "=" not in t and ":" not in t
    )
)
def test_what_can_be_seen_is_left_alone(text: str) -> None:
    assert plain(text) == text


def test_emoji_and_scripts_that_join_are_left_alone() -> None:
    for text in ("می\u200cخواهم", "👩\u200d🔬", "naïve café", "学習", "µ ± 3 × 10⁻³"):
        assert plain(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_shows_it_as_text(text: str) -> None:
    from rich.table import Table

    table = Table("name", title=cell(text))
    table.add_row(cell(text))
    table.add_row(plain(text))
    target = io.StringIO()
    screen = console(width=200)
    screen.file = target
    screen.print(table)
    assert target.getvalue().count(plain(text).strip()) >= 3


@pytest.mark.parametrize("text", HOSTILE)
def test_html_shows_it_as_text(text: str) -> None:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append(tag)
            assert dict(attributes) == {"title": plain(text, lines=True)}

        def handle_data(self, data: str) -> None:
            found.append(data)

    reader = Reader()
    reader.feed(f'<b title="{html(text)}">{html(text)}</b>')
    reader.close()
    assert found[0] == "b"
    assert "".join(found[1:]) == plain(text, lines=True)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_it_as_text(text: str) -> None:
    """Rendered by the library that TensorBoard itself uses."""
    import markdown as library

    page = f"| a | b |\n| --- | --- |\n| {markdown(text)} | {code(text)} |\n"
    rendered = library.markdown(page, extensions=["markdown.extensions.tables"])
    tags = re.findall(r"<(\w+)", rendered)
    assert set(tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code", "p"}
    assert tags.count("td") == 2
    assert tags.count("code") == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_matplotlib_draws_it(text: str) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawing = Figure(dpi=20)
    axes = drawing.subplots()
    axes.plot([1], [1], label=figure(text))
    axes.set(title=figure(text))
    assert len(axes.legend().get_texts()) == 1
    with io.BytesIO() as target:
        drawing.savefig(target)


def test_show_takes_any_stream() -> None:
    target = io.StringIO()
    show("a\x1b[31mb\nc", file=target)
    show("a\x1b[31mb\nc", lines=True, file=target)
    assert target.getvalue() == "a\\x1b[31mb\\nc\na\\x1b[31mb\nc\n"


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


SOURCES = [path for path in (REPOSITORY / "dydist").rglob("*.py") if path.parent.name != "bench"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_print_through_one_door(path: Path) -> None:
    """`print` prints JSON, which has no control characters; all else goes through `show`, `tell`, `cell`, `console`."""
    for call in _calls(path):
        name, text = ast.unparse(call.func), ast.unparse(call)
        if name == "print" and path.name not in ("display.py", "launch.py"):  # a node's log is scrubbed there
            assert re.match(r"(json\.|json_module\.)?dumps\(", ast.unparse(call.args[0])), text
        if "/cli/" in str(path):
            assert name != "Console", text


def test_html_is_escaped_in_one_place() -> None:
    for path in (REPOSITORY / "dydist").rglob("*.py"):
        calls = [ast.unparse(call) for call in _calls(path) if ast.unparse(call.func).endswith("html.escape")]
        assert not calls, (path, calls)
