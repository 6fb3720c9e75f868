"""`dydist compare`: are two runs the same run, and how do many do?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from dydist.errors import UserError


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    table: bool = False,
    csv: Path | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Two runs: say at which step they part, by how much, and whether their weights are equal bit for bit.

    More runs, a sweep's folder, or --table: one row for the runs that differ in the seed alone, with mean and
    standard deviation of the last test accuracy.

    Exit code of two runs: 0 where they are equal, 1 where they differ or have nothing in common to compare.

    Example: dydist compare runs/one-process runs/four-processes

    Example: dydist compare runs/lr --csv lr.csv

    Args:
        runs: Folders of runs, or of a sweep.
        table: Show a table also of two runs.
        csv: Write a line a run, with every setting, to this file.
        json_: Print JSON.
    """
    from dydist.compare_many import find_runs

    if not runs:
        raise UserError("compare: give two folders of runs, or the folder of a sweep")
    found = find_runs(runs)
    if len(found) == 2 and len(runs) == 2 and not table and csv is None:
        return _pair(found[0], found[1], as_json=json_)
    return _table(found, csv, as_json=json_)


def _table(runs: list[Path], csv: Path | None, *, as_json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from dydist.compare_many import read_result, tabulate, to_csv

    results = [result for run in runs if (result := read_result(run)) is not None]
    if csv is not None:
        csv.write_text(to_csv(results), encoding="utf-8")
    rows = tabulate(results)
    if as_json:
        print(
            json.dumps(
                {"runs": len(runs), "evaluated": len(results), "rows": [asdict(row) for row in rows]},
                indent=2,
            )
        )
        return 0
    shown = Table("runs", "accuracy %", "± of seeds", "best %", "images/s", "setting")
    for row in rows:
        spread = "–" if row.deviation is None else f"{100 * row.deviation:.2f}"
        figures = (f"{100 * row.accuracy:.2f}", spread, f"{100 * row.best:.2f}", f"{row.images_per_s:.0f}")
        shown.add_row(str(row.runs), *figures, row.label)
    console = Console()
    console.print(shown)
    if len(results) < len(runs):
        console.print(f"{len(runs) - len(results)} more without an evaluation yet")
    return 0


def _pair(first: Path, second: Path, *, as_json: bool) -> int:
    from dydist.compare import compare_runs

    result = compare_runs(first, second)
    if as_json:
        print(json.dumps({**asdict(result), "equal": result.equal}, indent=2))
        return 0 if result.equal else 1
    print(f"logged steps that both have   {result.steps_compared}")
    if result.parting is None:
        print("they part at                  no step")
    else:
        print(f"they part at                  step {result.parting.step}")
        for name, (a, b) in result.parting.values.items():
            print(f"    {name:<12} {a!r} and {b!r}, difference {abs(a - b):.3g}")
        print(f"largest difference in loss    {result.largest_loss_difference:.3g}")
    if result.fingerprints is None:
        print("weights                       no checkpoint of a step that both have")
    elif result.weights_equal:
        print(f"weights and momentum          equal to the bit at step {result.checkpoint_step}")
        print(f"SHA-256                       {result.fingerprints[0]}")
    else:
        print(f"weights and momentum          differ at step {result.checkpoint_step}")
        print(f"    first in                  {result.first_different_tensor}")
        print(f"    largest difference        {result.largest_weight_difference:.3g}")
    return 0 if result.equal else 1


COMMANDS = {"compare": compare}
