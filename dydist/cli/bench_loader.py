"""`dydist bench loader`."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import OmitArgPrefixes

from dydist.cli.bench_output import JsonFlag, NetworkOptions, print_json, print_machine, print_table, start
from dydist.config.types import Count, Index
from dydist.text.display import show


def bench_loader(
    *,
    network: Annotated[NetworkOptions, OmitArgPrefixes],
    images: Count = 16384,
    workers: Index = 2,
    pairs: Count = 5,
    json_: JsonFlag = False,
) -> int:
    """The loader alone on one core, over what a training step consumes there, and over torchvision's transforms.

    Random crop, flip and normalisation of the same images. The loader and the step have one core and one thread
    each; torchvision has a DataLoader with workers. All take turns within one run; the ratio is the median over
    rounds, with the least and the greatest.

    Example: dydist bench loader --workers 2

    Args:
        images: Images of one pass of the loader; torchvision makes a quarter of them.
        workers: Worker processes of torchvision's DataLoader.
        pairs: Rounds.
        json_: Print the result as JSON.
    """
    import statistics
    from dataclasses import asdict

    start(1)
    from dydist.bench.loader import loader_cost
    from dydist.bench.pairs import describe_machine

    cost = loader_cost(**asdict(network), images=images, workers=workers, pairs=pairs)
    ratios = {"loader / step": cost.over_step, "loader / torchvision": cost.over_torchvision}
    if json_:
        print_json(
            {
                "machine": describe_machine(),
                "seconds_an_image": asdict(cost),
                "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
            }
        )
        return 0
    rows = [
        [name, f"{1 / statistics.median(seconds):,.0f}"]
        for name, seconds in (
            ("loader, one core", cost.loader),
            (f"torchvision, {workers} workers", cost.torchvision),
            ("training step, one core", cost.step),
        )
    ]
    print_table(["what", "images/s"], rows)
    for name, ratio in ratios.items():
        show(f"{name}, images/s: {ratio}")
    print_machine()
    return 0


COMMANDS = {"bench loader": bench_loader}
