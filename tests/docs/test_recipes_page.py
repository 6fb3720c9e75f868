"""docs/recipes.md lists every recipe, and each is valid on one process and on as many as it has shards."""

from __future__ import annotations

import re

from dydist.config.reader import read_config
from dydist.config.rules import check_config
from helpers.pages import read
from helpers.support import REPOSITORY

RECIPES = sorted(path.stem for path in (REPOSITORY / "launch" / "recipes").glob("*.yaml"))


def test_every_recipe_is_listed_and_valid() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", read("docs/recipes.md"), re.MULTILINE)
    assert sorted(listed) == RECIPES
    for name in RECIPES:
        config = read_config(["--config", name])
        for world_size in (1, config.parallel.shards):
            check_config(config, world_size=world_size)
        assert config.run.name == name
