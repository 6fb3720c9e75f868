"""`dydist bench checkpoint`."""

from __future__ import annotations

from dydist.config.types import Count, FilePath, Positive
from dydist.text.display import console, show


def bench_checkpoint(
    *, dir: FilePath | None = None, saves: Count = 5, width: Positive = 1.0, json: bool = False
) -> int:
    """The cost of saving DY-ResNet18 with momentum: pause of the loop, time to commit, extra memory.

    Compared with torch.save and Accelerate's save_state to the same folder, in turn within one run. The pause lasts
    until the call returns, the commit until everything is flushed to the disk. Targets: a pause of at most 10 % of
    torch.save's time to the disk, and at most one copy of the state as extra memory.

    Example: dydist bench checkpoint --dir /scratch --saves 7

    Args:
        dir: Folder to save to. Default: a temporary one.
        saves: Saves each way, after a first one that is left out.
        width: The network's width.
        json: Print the result as JSON.
    """
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    from dydist.bench.checkpoint import measure
    from dydist.errors import UserError

    if dir is not None and not Path(dir).is_dir():
        raise UserError(f"--dir: {dir} is no folder; give one that is there")
    with tempfile.TemporaryDirectory(dir=dir, prefix="dydist-bench-") as folder:
        result = measure(Path(folder), saves=saves, width=width)
    if json:
        from json import dumps

        print(
            dumps(
                {
                    **asdict(result),
                    "pause_ratio": result.pause_ratio,
                    "unflushed_ratio": result.unflushed_ratio,
                }
            )
        )
        return 0
    from statistics import median

    from rich.table import Table

    mib = 2**20
    table = Table("way", "pause ms", "(least to greatest)", "commit ms", "extra memory MiB")
    for cost in result.ways:
        table.add_row(
            cost.way,
            f"{1000 * cost.pause:.1f}",
            f"{1000 * min(cost.pause_s):.1f} to {1000 * max(cost.pause_s):.1f}",
            f"{1000 * median(cost.commit_s):.0f}",
            f"{max(cost.extra_bytes) / mib:.0f}",
        )
    console().print(table)
    show(
        f"state: {result.state_bytes / mib:.0f} MiB, {saves} saves each; our pause over the time torch.save takes "
        f"to the disk: {result.pause_ratio:.3f}, and without a flush: {result.unflushed_ratio:.3f}"
    )
    return 0


COMMANDS = {"bench checkpoint": bench_checkpoint}
