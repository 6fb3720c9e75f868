"""`dydist check`: whether a configuration trains to the same bits on any number of processes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dydist.config.types import Count
from dydist.errors import EXIT_DONE, EXIT_ERROR, FailedError, UserError
from dydist.text.display import show, tell

if TYPE_CHECKING:
    from dydist.check import Verdict


def check(
    *,
    run: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    engine: tuple[Literal["exact", "ddp", "deepspeed"], ...] = (),
    precision: tuple[Literal["fp32", "bf16", "fp16"], ...] = (),
    processes: tuple[Count, ...] = (),
    steps: Count = 6,
    images: Count = 4,
    device: Literal["cpu", "cuda"] = "cpu",
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Whether a recipe, or a network of your own, trains to the same bits on any number of processes.

    Trains for a few steps on 1, 2 and 3 processes of this machine, and once more stopped and resumed, on few images
    and in a temporary folder. Compares the output of each module, the gradient of each parameter and the state after
    each step, bit by bit, and names the first module that computed something else. Exit code 0: all are equal; 1: not;
    2: the configuration is wrong.

    Example: dydist check -- quickstart --model.factory my_network:make

    Example: dydist check --precision fp32 bf16 --processes 1 4 -- --model.factory torchvision.models:resnet50

    Args:
        run: After --: a recipe's path or name, and flags of dydist/train.py over it; either may be left out.
        engine: exact compares bits; ddp and deepspeed only promise losses equal up to rounding. Several: one after the
            other. Default: what the recipe and its flags set; exact if they set neither parallel.reduce nor engine.
        precision: Instead of train.precision; several: one after the other.
        processes: Numbers of processes, each at most parallel.shards. The others are compared with the first. Default:
            1 2 3.
        steps: Steps of each run, at least 2.
        images: Images of each shard at each step, at least 2. Few images are quick.
        device: cuda needs a GPU for each process.
        json_: Print JSON.
    """
    from dydist.check import CheckOptions
    from dydist.check import check as run_check
    from dydist.config.reader import read_config
    from dydist.jobs.submission.submit import with_recipe

    if steps < 2 or images < 2:
        raise UserError(
            f"check: --steps {steps} --images {images} are too few; use at least 2 of each, to stop half-way and for "
            "batch statistics"
        )
    arguments = with_recipe(run)
    shards = read_config(arguments).parallel.shards
    options = CheckOptions(
        processes=processes or tuple(range(1, 1 + min(3, shards))), steps=steps, images=images, device=device
    )
    combinations = [(one, how) for one in engine or (_engine(arguments),) for how in precision or (None,)]
    verdicts = []
    try:
        with _ended_by_signals():
            for one, how in combinations:
                flags = arguments if how is None else [*arguments, "--train.precision", how]
                label = f"{one}, {how or 'precision of the recipe'}: " if len(combinations) > 1 else ""
                verdicts.append(run_check(flags, options, one, progress=_progress(label)))
                if not json_:
                    _print(verdicts[-1])
    except FailedError as error:
        tell(error)
        return EXIT_ERROR
    finally:
        if json_:  # after a failure: of the combinations before it
            print(json.dumps([{**asdict(one), "kept": one.kept} for one in verdicts], indent=1))
    return EXIT_DONE if all(one.kept for one in verdicts) else EXIT_ERROR


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within this context, SIGTERM and SIGHUP raise SystemExit: processes are ended, the folder is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # a second one must not interrupt that
        raise SystemExit(128 + number)

    before = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN  # as nohup sets it
    }
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _engine(arguments: Sequence[str]) -> Literal["exact", "ddp", "deepspeed"]:
    """What the arguments set; exact if they set nothing."""
    from dydist.config.reader import read_given

    parallel = read_given(arguments).get("parallel", {})
    if parallel.get("engine") == "deepspeed":
        return "deepspeed"
    return "ddp" if parallel.get("reduce") == "fast" else "exact"


def _progress(label: str) -> Callable[[str], None]:
    return lambda text: show(f"{label}{text}", file=sys.stderr)


def _print(verdict: Verdict) -> None:
    from dydist.check.verdict import NOT_PROMISED

    exact = verdict.engine == "exact"
    show(f"engine {verdict.engine}, {verdict.precision}")
    for row in verdict.rows:
        show(f"  {row.run}: {row.text}")
    for doubt in verdict.doubts:
        show(f"  {doubt}, which does not depend on (seed, step, shard) alone")
    for note in verdict.notes:
        show(f"  note: {note}")
    if not exact:
        show(f"  note: {NOT_PROMISED}; --engine exact compares bits")
    if not verdict.rows:
        show("NOT KEPT: nothing was run; parallel.reduce=exact refuses such a network")
        return
    what = "the same bits" if exact else "the same up to rounding"
    show(f"kept: {what} in every run" if verdict.kept else f"NOT KEPT: not {what} in every run")


COMMANDS = {"check": check}
