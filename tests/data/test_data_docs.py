"""docs/data.md: what it shows runs, and what it lists is there."""

from __future__ import annotations

import contextlib
import io
import re
from typing import get_args, get_type_hints

from dydist.config import DataConfig
from helpers.support import REPOSITORY

TEXT = (REPOSITORY / "docs" / "data.md").read_text()


def test_the_python_shown_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue().startswith("(360, 3, 8, 8) uint8 [")


def test_every_data_set_and_only_known_fields_are_listed() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert tuple(listed) == get_args(get_type_hints(DataConfig)["name"])
    named = set(re.findall(r"`data\.(\w+)", TEXT))
    assert named <= set(DataConfig.__dataclass_fields__)
    assert named >= {"augment", "crop_padding", "cutout", "mixup", "cutmix", "limit"}
