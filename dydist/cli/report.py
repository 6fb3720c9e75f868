"""`dydist report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from dydist.text.display import show


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER ...")],
    *,
    output: Path | None = None,
    png: bool = True,
    json: bool = False,
) -> int:
    """One HTML file about one or several runs: curves, attention, waits, faults, configuration; and PNG plots.

    Several runs share each chart; those that differ only in the seed are drawn as mean and band. The page is
    self-contained: it needs no network, and adapts to dark mode and narrow screens.

    Example: dydist report runs/seed-0 runs/seed-1 runs/seed-2 --output report.html

    Args:
        runs: Run folders.
        output: The HTML file. Default: report.html in the run folder, or here for several runs.
        png: Also write the curves as PNG files, to a folder beside it (needs matplotlib: the extra `report`).
        json: Print the written files as JSON.
    """
    from dydist.errors import UserError
    from dydist.monitor.outputs.files import replace_file
    from dydist.monitor.report import charts, group_runs, page, read_run, write_pngs

    if not runs:
        raise UserError("report: no run was given; name at least one run folder, such as runs/quickstart")
    found = [read_run(folder) for folder in runs]
    target = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, page(found).encode())
    except OSError as error:
        raise UserError(
            f"--output: cannot write {target} ({error.strerror}); give a file in a folder that can be written"
        ) from error
    plots: list[Path] = []
    if png:
        try:
            plots = write_pngs(charts(group_runs(found)), target.with_name(f"{target.stem}-plots"))
        except ImportError:
            show("No PNG plots: matplotlib is missing; pip install 'dydist[report]'", file=sys.stderr)
    if json:
        from json import dumps

        print(dumps({"html": str(target), "png": [str(path) for path in plots]}))
    else:
        show(target)
        if plots:
            show(f"{plots[0].parent}/ ({len(plots)} PNG files)")
    return 0


COMMANDS = {"report": report}
