"""`dydist compare`: are two runs the same run?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro


def compare(
    first: Annotated[Path, tyro.conf.Positional],
    second: Annotated[Path, tyro.conf.Positional],
    *,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Say at which step two runs part, by how much, and whether their weights are equal bit for bit.

    Exit code 0 where they are equal, 1 where they differ or have nothing in common to compare.

    Example: dydist compare runs/one-process runs/four-processes

    Args:
        first: Folder of a run.
        second: Folder of another.
        json_: Print JSON.
    """
    from dydist.compare import compare_runs

    result = compare_runs(first, second)
    if json_:
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
