"""docs/troubleshooting.md has a line for every message that an error tells, and none for messages that are gone."""

from __future__ import annotations

import re

from helpers.error_messages import messages, says_something
from helpers.pages import read

DOCUMENTED = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", read("docs/troubleshooting.md"), re.MULTILINE)


def covers(documented: str, message: str) -> bool:
    """Whether a line of the page is how a message begins; `…` in the line stands for anything."""
    return re.match(".*?".join(map(re.escape, documented.split("…"))), message) is not None


def test_every_message_is_explained() -> None:
    missing = {
        text: place for text, place in messages().items() if not any(covers(one, text) for one in DOCUMENTED)
    }
    assert len(messages()) > 100
    assert not missing, "explain them in docs/troubleshooting.md:\n" + "\n".join(map(str, missing.items()))


def test_every_line_explains_a_message() -> None:
    assert [one for one in DOCUMENTED if not any(covers(one, text) for text in messages())] == []


def test_no_line_is_for_everything() -> None:
    assert len(DOCUMENTED) == len(set(DOCUMENTED)) > 100
    assert all(map(says_something, DOCUMENTED))
