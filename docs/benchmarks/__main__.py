"""Benchmarks of this project's own parts, for those who work on it: python docs/benchmarks NAME --help

`engines`, `exact`, `images`, `loop`, `monitor`, `scaling`. Those that a user runs are `dydist bench --help`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dydist.cli.arguments import bind
from dydist.errors import EXIT_USAGE, UserError
from dydist.process.end import run_to_end
from dydist.text.display import tell

NAMES = ("engines", "exact", "images", "loop", "monitor", "scaling")


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark; returns its exit code. Mistakes are one line on standard error and exit 2."""
    name = arguments[0] if arguments else ""
    try:
        if name not in NAMES:
            raise UserError(f"{name!r} is no benchmark; use one of {', '.join(NAMES)}")
        code: int = bind(
            f"python docs/benchmarks {name}", importlib.import_module(name).bench, arguments[1:]
        )()
    except UserError as error:
        tell(error)
        return EXIT_USAGE
    return code


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))
