"""Decides whether a function that a checkpoint names, for its network or its images, may be called.

A checkpoint is data, but `model.factory: os:system` in it would be a command. Such a function is called only if the
user names it, or if the user's own run folder does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dydist.config import Config
from dydist.config.reader import read_yaml
from dydist.errors import UserError
from dydist.named_run import is_own_run, run_folder
from dydist.storage.places import is_url, local_path
from dydist.text.redaction import scrub
from dydist.user_function import refuse_unnamed


def refuse_foreign_code(
    config: Config, section: Literal["model", "data"], *, where: str, given: str | None
) -> None:
    """Raise UserError if `config`, from a checkpoint, names a factory in `section` that is not trusted.

    `given`: the factories that the user names, separated by commas; these are trusted. `where`: the path or URL of the
    checkpoint, as the user writes it. If it is in a run folder of the user on this machine, the factory and options in
    that folder's config.yaml are trusted, too.
    """
    values = getattr(config, section)
    if values.factory is not None:
        refuse_unnamed(
            f"{section}.factory", values.factory, "call dydist.load(RUN, model=…) with the network"
        )
    if values.factory is None or values.factory in (given or "").split(","):
        return
    shown = scrub(str(values.options))
    if _named_by_own_run(where, section, values.factory, values.options):
        return
    raise UserError(
        f"{section}.factory: {scrub(where)} names {values.factory} with {shown}, which would be run here; if you "
        f"trust it, give --factory {values.factory}"
    )


def _named_by_own_run(where: str, section: str, factory: str, options: Mapping[str, Any]) -> bool:
    if is_url(where) or not is_own_run(folder := run_folder(Path(local_path(where)))):
        return False
    given = read_yaml(folder / "config.yaml").get(section, {})
    ours, theirs = (json.dumps(one, sort_keys=True) for one in (given.get("options") or {}, dict(options)))
    return given.get("factory") == factory and ours == theirs
