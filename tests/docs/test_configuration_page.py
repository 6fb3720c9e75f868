"""docs/configuration.md is what docs/configuration.py makes of the dataclasses, and tells every rule."""

from __future__ import annotations

import ast
import inspect
import runpy
from typing import Any

from dydist.config import rules as config_rules
from dydist.config.reader import fields
from helpers.support import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "configuration.py"


def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_page_is_current() -> None:
    written = SCRIPT.with_suffix(".md").read_text(encoding="utf-8")
    assert written == script()["page"](), "run: python docs/configuration.py"
    assert all(f"| `{path}` |" in written for path, _, _ in fields())


def test_every_rule_has_an_example() -> None:
    functions = (
        config_rules._combinations,
        config_rules._network,
        config_rules._places,
        config_rules._trackers,
    )
    rules = [one for function in functions for one in ast.walk(ast.parse(inspect.getsource(function)))]
    made = script()
    refusals = {made["refusal"](*example) for example in made["IMPOSSIBLE"]}
    assert len(refusals) == sum(isinstance(one, ast.Yield) for one in rules)
    assert all("\n" not in one for one in refusals), "each example breaks one rule alone"


def test_ranges_name_fields_that_there_are() -> None:
    ranged = [*config_rules.LOWEST, *config_rules.ABOVE, *config_rules.BELOW_ONE]
    assert len(ranged) == len(set(ranged))
    assert set(ranged) <= {path for path, _, _ in fields()}
    assert set(config_rules.HIGHEST) <= {*config_rules.LOWEST, *config_rules.ABOVE}
