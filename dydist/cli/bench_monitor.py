"""`dydist bench monitor`."""

from __future__ import annotations

from dydist.config.rules import check_config
from dydist.config.types import Count, Positive
from dydist.text.display import show


def bench_monitor(
    *,
    steps: Count = 100,
    pairs: Count = 10,
    width: Positive = 0.25,
    batch_size: Count = 128,
    histograms_every: Count = 500,
    json: bool = False,
) -> int:
    """The cost of monitoring: time per step with all monitors on over time with all off.

    Blocks of steps with and without take turns in one process, on synthetic images; the median over pairs of
    neighbouring blocks is given with its 95 % interval. Aims: at most 1.01; 1.02 with --histograms-every 100.

    Example: dydist bench monitor --steps 100 --pairs 10 --histograms-every 100

    Args:
        steps: Steps of a block.
        pairs: Pairs of blocks.
        width: The network's width (DY-ResNet18, strided stem).
        batch_size: Images a step.
        histograms_every: Steps between histograms; 0: none.
        json: Print the result as JSON.
    """
    import sys

    from dydist.bench.monitor import measure_monitor_cost, median_interval
    from dydist.config import Config, DataConfig, ModelConfig, MonitorConfig, TrainConfig
    from dydist.errors import UserError

    if steps < 3 or pairs < 2:
        raise UserError(f"bench monitor: --steps {steps} --pairs {pairs} is too few; use at least 3 and 2")
    config = Config(
        model=ModelConfig(width=width, stem="strided"),
        data=DataConfig(name="synthetic", limit=20 * batch_size),
        train=TrainConfig(batch_size=batch_size),
        monitor=MonitorConfig(histograms_every_steps=histograms_every),
    )
    check_config(config)
    cost = measure_monitor_cost(
        config, steps=steps, pairs=pairs, tell=lambda line: show(line, file=sys.stderr)
    )
    if json:
        from json import dumps

        result = {"wall": cost.wall, "cpu": cost.cpu, "step_s": cost.step_s, "steps": steps}
        print(dumps({**result, "histograms_every_steps": histograms_every}))
        return 0
    show(
        f"every monitor on over every one off, {pairs} pairs of {steps} steps of {1000 * cost.step_s:.1f} ms:"
    )
    for what, ratios in (("time a step", cost.wall), ("processor time a step", cost.cpu)):
        middle, low, high = median_interval(ratios)
        show(f"  {what}: {middle:.4f} (median; 95 % interval {low:.4f} to {high:.4f})")
    return 0


COMMANDS = {"bench monitor": bench_monitor}
