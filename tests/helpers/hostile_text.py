"""Characters that a terminal obeys, or that change what a reader sees."""

from __future__ import annotations

import re

VISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)
