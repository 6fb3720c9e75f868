"""`dydist files`: the recipes, launch files and profiles that come with the package."""

from __future__ import annotations

import json
from typing import Annotated

import tyro

from dydist.config.types import FilePath
from dydist.errors import UserError
from dydist.text.display import show


def files(
    *,
    name: Annotated[FilePath, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = "",
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """List the recipes, launch files and SLURM profiles that come with dydist, or print the path of one.

    Example: accelerate launch --config_file "$(dydist files cpu_2)" -m dydist.train --config quickstart

    Args:
        name: A file's path or bare name, such as cpu_2. Without: all.
        json_: Print JSON: each file's path by its name.
    """
    from dydist.config.shipped import find_file, shipped_files

    known = shipped_files()
    if name:
        path = find_file(name)
        if not path.is_file():
            raise UserError(f"files: there is no {name!r}; `dydist files` lists those that there are")
        known = {name: path}
    if json_:
        print(json.dumps({one: str(path) for one, path in known.items()}, indent=1))
    else:
        show("\n".join(map(str, known.values() if name else known)), lines=True)


COMMANDS = {"files": files}
