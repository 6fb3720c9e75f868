"""`dydist compare`: compares two runs, or tabulates many."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dydist.errors import UserError
from dydist.text.display import cell, console, show

if TYPE_CHECKING:
    from dydist.compare.many import Row


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER ...")],
    *,
    table: bool = False,
    baseline: str | None = None,
    split: Literal["auto", "validation", "test"] = "auto",
    csv: Path | None = None,
    plot: Path | None = None,
    x: str | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Two runs: say at which step they first differ, by how much, and whether their weights are equal bit for bit.

    More runs, a sweep's folder, or --table: one row for the runs that differ only in the seed: the last accuracy
    (mean and standard deviation over seeds), its difference to a baseline with a 95 % confidence interval, parameters,
    multiply-adds of one image, and time. Static against dynamic is `dydist sweep` over model.kind and seed, then this.

    Exit code of two runs: 0 where they are equal, 1 where they differ or have nothing in common to compare.

    Example: dydist compare runs/one-process runs/four-processes

    Example: dydist compare runs/kinds --csv kinds.csv --plot kinds.png

    Example: dydist compare runs/rates --plot rates.png --x optim.lr

    Args:
        runs: Folders of runs, or of a sweep.
        table: Show a table also of two runs.
        baseline: Part of the label of the row that others are compared with. Default: model.kind=static, or the worst.
        split: The split of the accuracies; shows a table. auto: validation if all runs have one, or else test.
        csv: Write one line per run, with every setting, to this file.
        plot: Draw every run's accuracy by row, with mean and interval, to this PNG file.
        x: Draw the accuracy over this instead: epoch, or a numeric field such as optim.lr; a line for each setting.
        json_: Print JSON.
    """
    from dydist.compare.many import find_runs

    if not runs:
        raise UserError("compare: give two folders of runs, or the folder of a sweep")
    if plot is not None and plot.suffix.lower() != ".png":
        raise UserError(f"--plot: {plot} is no name of a PNG file; give one that ends in .png")
    if x is not None and plot is None:
        raise UserError(f"--x: {x} is the axis of a plot; give --plot FILE.png as well")
    found = find_runs(runs)
    if len(found) == 2 and len(runs) == 2 and not (table or csv or plot or baseline or split != "auto"):
        return _pair(found[0], found[1], as_json=json_)
    return _table(found, baseline, split, csv, plot, x, as_json=json_)


def _table(
    runs: list[Path],
    baseline: str | None,
    split: str,
    csv: Path | None,
    plot: Path | None,
    x: str | None,
    *,
    as_json: bool,
) -> int:
    from dydist.compare.many import common_split, read_result, tabulate, to_csv, with_differences
    from dydist.compare.plot import draw, draw_lines

    results = [result for run in runs if (result := read_result(run)) is not None]
    split = common_split(results) if split == "auto" else split
    results = [result for result in results if split in result.accuracies]
    rows, against = with_differences(tabulate(results, split), baseline) if results else ([], "")
    if csv is not None:
        _write(csv, to_csv(results, split).encode(), "--csv")
    if plot is not None:
        if not rows:
            raise UserError("--plot: none of the runs has been evaluated yet; draw it when one has")
        _write(plot, draw(rows, against, split) if x is None else draw_lines(results, split, x), "--plot")
    unfinished = {result.run: result.step for result in results if not result.finished}
    if as_json:
        found = {"runs": len(runs), "split": split, "evaluated": len(results), "unfinished": unfinished}
        print(json.dumps({**found, "baseline": against, "rows": [asdict(row) for row in rows]}, indent=2))
        return 0
    _print_rows(rows, against, split)
    if unfinished:
        show(f"not finished: {', '.join(f'{run} (step {step})' for run, step in unfinished.items())}")
    if len(results) < len(runs):
        show(f"{len(runs) - len(results)} more without an evaluation on the {split} split yet")
    return 0


def _print_rows(rows: list[Row], against: str, split: str) -> None:
    from rich.table import Table

    figures = ("runs", f"{split} %", "best %", "difference (95 %)", "parameters", "mult-adds", "images/s")
    shown = Table("setting", *figures, "training")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in rows:
        spread = "" if row.deviation is None else f" ± {100 * row.deviation:.2f}"
        shown.add_row(
            *(cell(row.label), str(row.runs), f"{100 * row.accuracy:.2f}{spread}", f"{100 * row.best:.2f}"),
            *(_difference(row), f"{row.parameters / 1e6:.2f} M", f"{row.multiply_adds / 1e6:,.1f} M"),
            *(f"{row.images_per_s:.0f}", _duration(row.training_s)),
        )
    screen = console()
    # figures that are cut to a pipe's 80 columns say nothing
    console(width=max(screen.width, 130)).print(shown)
    if len(rows) > 1:
        show(f"± standard deviation over runs. Difference to: {against}")


def _difference(row: Row) -> str:
    if row.difference is None:
        return "–"
    mean, low, high = row.difference.mean, row.difference.low, row.difference.high
    interval = " (one run)" if low is None or high is None else f" ({100 * low:+.2f} to {100 * high:+.2f})"
    return f"{100 * mean:+.2f}{interval}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _write(path: Path, content: bytes, option: str) -> None:
    from dydist.monitor.outputs.files import replace_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise UserError(
            f"{option}: cannot write {path} ({error.strerror}); give a file in a folder that can be written"
        ) from error


def _pair(first: Path, second: Path, *, as_json: bool) -> int:
    from dydist.compare.two import compare_runs

    result = compare_runs(first, second)
    if as_json:
        print(json.dumps({**asdict(result), "equal": result.equal}, indent=2))
        return 0 if result.equal else 1
    show(f"logged steps that both have   {result.steps_compared}")
    if result.first_difference is None:
        show("first difference at           no step")
    else:
        show(f"first difference at           step {result.first_difference.step}")
        for name, (a, b) in result.first_difference.values.items():
            show(f"    {name:<12} {a!r} and {b!r}, difference {abs(a - b):.3g}")
        show(f"largest difference in loss    {result.largest_loss_difference:.3g}")
    if result.fingerprints is None:
        show("weights                       no checkpoint of a step that both have")
    elif result.weights_equal:
        show(f"weights and momentum          equal to the bit at step {result.checkpoint_step}")
        show(f"SHA-256                       {result.fingerprints[0]}")
    else:
        show(f"weights and momentum          differ at step {result.checkpoint_step}")
        show(f"    first in                  {result.first_different_tensor}")
        largest = result.largest_weight_difference
        show(f"    largest difference        {'of names or shapes' if largest is None else f'{largest:.3g}'}")
    return 0 if result.equal else 1


COMMANDS = {"compare": compare}
