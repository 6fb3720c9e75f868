"""The same run under DeepSpeed: losses, images, stops and checkpoints that every engine and world size reads."""

from __future__ import annotations

import functools
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dydist.checkpoint import load, open_storage, survey
from dydist.config import Config, ParallelConfig, TrainConfig
from dydist.config.rules import check_config
from dydist.engine import Progress
from dydist.engine.core import TorchEngine
from dydist.engine.deepspeed import pass_count
from dydist.engine.deepspeed_import import import_deepspeed
from dydist.engine.loss_scale import LossScale
from dydist.errors import UserError
from dydist.run.session import Session
from helpers import portability
from helpers.dynamic_networks import EVERY_ATTENTION_OPTION
from helpers.support import REPOSITORY, Run, metrics, preloaded, train

os.environ.setdefault("DS_ACCELERATOR", "cpu")

STEPS = 20
FIRST_SCALE, GROWTH_INTERVAL = 2.0**10, 3
OVERFLOWS = (2, 6, 9, 14, 19, 24, 29)
"""Steps whose gradients are beyond fp16 on every CPU and under every engine; all other ones are far within."""
DEEPSPEED = ("--parallel.engine", "deepspeed", "--parallel.zero")
ENGINE: dict[str, tuple[object, ...]] = {
    "ddp": (),
    **{f"zero{z}": (*DEEPSPEED, z) for z in range(4)},
    "exact": ("--parallel.reduce", "exact"),
    "zero2-offload": (*DEEPSPEED, 2, "--parallel.offload", "optimizer"),
    "zero3-offload": (*DEEPSPEED, 3, "--parallel.offload", "all"),
}


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> Iterator[None]:
    with preloaded(
        "deepspeed", "transformers", "torch._inductor.compile_fx", "deepspeed.runtime.zero.stage3"
    ):
        yield


def flags(root: Path, runs: Path, name: str, engine: str, *more: object) -> list[object]:
    """A small DY-ResNet18 on real CIFAR images, with all that draws random numbers switched on.

    The learning rate is tiny: at larger ones the network magnifies rounding (docs/exactness.md draws it).
    """
    return [
        *("--run.dir", runs, "--run.name", name, "--data.root", root, "--data.limit", "512"),
        *(
            "--train.epochs",
            "3",
            "--train.batch_size",
            "64",
            "--parallel.shards",
            "8",
            "--train.max_steps",
            STEPS,
        ),
        *(
            "--model.width",
            "0.125",
            "--model.stem",
            "strided",
            "--model.dropout",
            "0.2",
            "--data.mixup",
            "0.4",
        ),
        *("--optim.kernel_lr", "auto", "--optim.kernel_decay", "auto", "--optim.attention_lr", "2"),
        *("--optim.lr", "0.00003", "--temperature.per", "step", "--temperature.epochs", "2"),
        *("--monitor.every_steps", "1", "--monitor.quiet", "true", "--parallel.timeout_s", "60"),
        *("--parallel.device", "cpu", "--train.eval_every_epochs", "3", *ENGINE[engine], *more),
    ]


def assert_same_run(mine: Path, theirs: Path, tolerance: float, steps: int = STEPS) -> None:
    ours, wanted = metrics(mine), metrics(theirs)
    assert [line["step"] for line in ours] == [line["step"] for line in wanted] == list(range(1, steps + 1))
    assert [line["data_hash"] for line in ours] == [line["data_hash"] for line in wanted]
    for a, b in zip(ours, wanted, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=tolerance), a["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=max(0.002, 50 * tolerance)), a["step"]
        assert a["attention"].keys() == b["attention"].keys() != set()
        for layer, wants in b["attention"].items():  # also where ZeRO-3 cuts the weights up
            assert a["attention"][layer]["share"] == pytest.approx(wants["share"], abs=10 * tolerance), layer


@pytest.fixture(scope="module")
def reference(cifar10_exact_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """DDP's `fast` on two processes, clipped: the run folder of a precision."""
    runs = tmp_path_factory.mktemp("reference")

    @functools.cache
    def run(precision: str) -> Path:
        more = ("--train.precision", precision, "--train.clip_norm", "1.0")
        train(flags(cifar10_exact_root, runs, precision, "ddp", *more), 2, runs / "logs" / precision)
        return runs / precision

    return run


TABLE = [
    *((f"zero{stage}", size, kind) for stage in range(4) for size in (2, 4) for kind in ("fp32", "bf16")),
    ("zero2", 3, "fp32"),
    ("zero3", 1, "fp32"),
    ("zero2-offload", 2, "fp32"),
    ("zero3-offload", 2, "fp32"),
]


@pytest.mark.long  # what stops below is compared in the same way
@pytest.mark.parametrize(
    ("engine", "world_size", "precision"),
    TABLE,
)
def test_twenty_losses_and_the_images_are_ddps(
    engine: str,
    world_size: int,
    precision: str,
    reference: Callable[[str], Path],
    cifar10_exact_root: Path,
    tmp_path: Path,
) -> None:
    more = ("--train.precision", precision, "--train.clip_norm", "1.0")
    arguments = flags(cifar10_exact_root, tmp_path, "run", engine, *more)
    train(arguments, world_size, tmp_path / "logs" / "run")
    assert_same_run(tmp_path / "run", reference(precision), 1e-4 if precision == "fp32" else 5e-3)


@pytest.mark.long
def test_every_option_of_the_attention_is_ddps(cifar10_exact_root: Path, tmp_path: Path) -> None:
    """Other parameters (scales, norms), other groups, statistics by shard: cut up by ZeRO-2 and ZeRO-3 alike."""
    for engine in ("ddp", "zero2", "zero3"):
        train(
            flags(cifar10_exact_root, tmp_path, engine, engine, *EVERY_ATTENTION_OPTION),
            2,
            tmp_path / "logs" / engine,
        )
    for engine in ("zero2", "zero3"):
        assert_same_run(tmp_path / engine, tmp_path / "ddp", 1e-4)


CHAIN = (
    ("ddp", 1, 5),
    ("zero3", 4, 7),
    ("zero1", 2, 10),
    ("zero2", 3, 12),
    ("zero3", 2, 15),
    ("ddp", 2, STEPS),
)
"""(engine, world size, step where it ends): from each to the next, in mid-epoch. portability.py has them all."""


@pytest.mark.long
def test_a_checkpoint_goes_from_engine_to_engine_with_every_bit(
    cifar10_exact_root: Path, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    for number, (engine, world_size, last) in enumerate(CHAIN):
        arguments = flags(cifar10_exact_root, tmp_path, "chain", engine, "--train.clip_norm", "1.0")
        arguments[arguments.index("--train.max_steps") + 1] = last
        dump = tmp_path / f"loaded-{number}.safetensors"
        log = tmp_path / "logs" / str(number)
        storage = open_storage(str(tmp_path / "chain" / "checkpoints"))
        written = load(storage, survey(storage)[0]) if number else None
        run = Run(arguments, world_size, log, before=dump_what_is_loaded, DYDIST_TEST_DUMP=str(dump))
        assert run.wait() == [0] * world_size, run.text()
        if written is not None:
            loaded = load_file(dump)
            wanted = {**written.model, **written.optimizer}
            assert loaded.keys() == wanted.keys()
            different = [name for name in wanted if not torch.equal(loaded[name], wanted[name])]
            assert not different, (engine, world_size, different)
            assert any(tensor.abs().max() > 0 for tensor in written.optimizer.values())
    assert_same_run(tmp_path / "chain", reference("fp32"), 1e-4)


def dump_what_is_loaded() -> None:
    """In the training process: write what the engine holds once it is restored."""
    restore = Session.restore

    def dumping(self: Session) -> Progress:
        progress = restore(self)
        state = {**self.engine.model_state(), **self.engine.optimizer_state()}
        if self.world.rank == 0:
            save_file({name: t.contiguous() for name, t in state.items()}, os.environ["DYDIST_TEST_DUMP"])
        return progress

    Session.restore = dumping  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("zero3", signal.SIGTERM),
        pytest.param("zero3", signal.SIGKILL, marks=pytest.mark.long),
        pytest.param("zero2", signal.SIGKILL, marks=pytest.mark.long),
        pytest.param("zero2", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_stopped_or_killed_it_goes_on_with_the_same_images(
    engine: str,
    number: signal.Signals,
    cifar10_exact_root: Path,
    tmp_path: Path,
) -> None:
    more = ("--train.clip_norm", "1.0", "--checkpoint.every_steps", "3", "--train.max_steps", "10")
    whole = flags(cifar10_exact_root, tmp_path, "whole", "ddp", *more)
    train(whole, 2, tmp_path / "logs" / "whole")
    arguments = flags(cifar10_exact_root, tmp_path, "cut", engine, *more)
    run = Run(arguments, 2, tmp_path / "logs" / "first", hold=7)
    run.wait_for_step(tmp_path / "cut", 4)
    run.signal(number, *(() if number == signal.SIGKILL else (1,)))
    expected = -signal.SIGKILL if number == signal.SIGKILL else 75
    assert run.wait() == [expected] * 2, run.text()
    train(arguments, 3, tmp_path / "logs" / "second")
    assert_same_run(tmp_path / "cut", tmp_path / "whole", 1e-4, steps=10)


@pytest.mark.long
def test_a_last_batch_of_uneven_shards(cifar10_exact_root: Path, tmp_path: Path) -> None:
    """66 images in batches of 24 and 8 shards: the last step has shards of 2 and 3 images."""
    losses = {}
    for engine in ("ddp", "zero3"):
        more = ("--data.drop_last", "false")
        arguments = flags(cifar10_exact_root, tmp_path, engine, engine, *more)
        for field, value in (("--data.limit", 66), ("--train.batch_size", 24), ("--train.max_steps", 4)):
            arguments[arguments.index(field) + 1] = value
        train(arguments, 3, tmp_path / "logs" / engine)
        losses[engine] = [line["loss"] for line in metrics(tmp_path / engine)]
    assert losses["zero3"] == pytest.approx(losses["ddp"], abs=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_parameters_are_saved_and_loaded(stage: int, cifar10_exact_root: Path, tmp_path: Path) -> None:
    saved = []
    for last, world_size in ((2, 2), (4, 3)):
        given = ("--model.factory", "helpers.networks:partly_frozen")
        arguments = flags(cifar10_exact_root, tmp_path, "frozen", f"zero{stage}", *given)
        arguments[arguments.index("--train.max_steps") + 1] = last
        train(arguments, world_size, tmp_path / "logs" / str(last))
        storage = open_storage(str(tmp_path / "frozen" / "checkpoints"))
        saved.append(load(storage, survey(storage)[0]))
    first, second = saved
    assert first.step < second.step
    equal = {name for name in first.model if torch.equal(first.model[name], second.model[name])}
    assert equal == {"conv1.weight", "conv1.bias", "hidden.bias"}
    assert first.model["conv1.weight"].abs().max() > 0


FP16_CHAIN = (
    ("ddp", 1, 7),
    ("zero1", 2, 12),
    ("zero3", 2, 17),
    ("zero2", 3, 22),
    ("exact", 2, 27),
    ("zero0", 1, 32),
)
"""(engine, world size, step where it ends): each has a step that overflows."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "chain",
    [(("ddp", 1, 3), ("zero1", 2, 7)), pytest.param(FP16_CHAIN, marks=pytest.mark.long)],
    ids=["short", "whole"],
)
def test_fp16_skips_what_overflows_and_every_engine_goes_on_with_the_same_scale(
    chain: Sequence[tuple[str, int, int]], cifar10_exact_root: Path, tmp_path: Path
) -> None:
    """Gradients overflow at given steps. All engines skip those, and halve and double one loss scale."""
    more = ("--train.precision", "fp16", "--train.clip_norm", "1.0", "--train.epochs", "4")
    steps, saved = chain[-1][2], {}
    for number, (engine, world_size, last) in enumerate((*chain, ("ddp", 2, steps))):
        name = "chain" if number < len(chain) else "reference"
        arguments = flags(cifar10_exact_root, tmp_path, name, engine, *more)
        arguments[arguments.index("--train.max_steps") + 1] = last
        train(arguments, world_size, tmp_path / "logs" / str(number), before=certain_overflows)
        storage = open_storage(str(tmp_path / name / "checkpoints"))
        saved[name, last] = load(storage, survey(storage)[0]).extra["engine"]
    lines, reference = metrics(tmp_path / "chain"), metrics(tmp_path / "reference")
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for mine, theirs in zip(lines, reference, strict=True):
        assert mine["data_hash"] == theirs["data_hash"]
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=5e-3), mine["step"]
    for found in (lines, reference):
        assert [line["step"] for line in found if line["grad_norm"] is None] == [
            step for step in OVERFLOWS if step <= steps
        ]
    for name, last in saved:
        assert saved[name, last] == scale_after(last, OVERFLOWS), (name, last)


def certain_overflows() -> None:
    """In the training process, before it starts: at these steps a loss counts 1e12 times in its gradients."""
    LossScale.__init__.__defaults__ = (FIRST_SCALE, 0, GROWTH_INTERVAL)
    backward = TorchEngine._backward

    def overflowing(self: TorchEngine, *arguments: Any, step: int, factor: float, **more: Any) -> Any:
        return backward(
            self, *arguments, step=step, factor=factor * (1e12 if step + 1 in OVERFLOWS else 1), **more
        )

    TorchEngine._backward = overflowing  # type: ignore[method-assign]


def scale_after(steps: int, skipped: Collection[int]) -> dict[str, float]:
    """The loss scale by GradScaler's rule, and the steps since it last changed."""
    scale, growth = FIRST_SCALE, 0
    for step in range(1, steps + 1):
        growth = 0 if step in skipped else growth + 1
        scale *= 0.5 if step in skipped else 2.0 if growth == GROWTH_INTERVAL else 1.0
        growth %= GROWTH_INTERVAL
    return {"scale": scale, "_growth_tracker": float(growth)}


@pytest.mark.long
@pytest.mark.parametrize("zero", [2, 3])
def test_one_and_more_processes_are_as_accurate(zero: int, tmp_path: Path) -> None:
    """The quick start's recipe on digits, three seeds each: the mean accuracy does not drop with the ranks."""
    table: dict[int, list[float]] = {}
    for world_size in (1, 2, 4):
        for seed in range(3):
            name = f"{world_size}-{seed}"
            arguments = [
                *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", tmp_path, "--run.name"),
                *(name, "--seed", seed, "--train.epochs", 6, "--temperature.epochs", 3, "--model.width", 0.125),
                *("--train.eval_every_epochs", 6, "--monitor.quiet", "true", "--monitor.every_steps", 50),
                *("--parallel.device", "cpu", *DEEPSPEED, zero),
            ]  # fmt: skip
            train(arguments, world_size, tmp_path / "logs" / name)
            accuracy = metrics(tmp_path / name, "evaluation")[-1]["accuracy"]
            table.setdefault(world_size, []).append(accuracy)
    means = {world_size: statistics.fmean(found) for world_size, found in table.items()}
    spread = statistics.stdev([a - means[n] for n, found in table.items() for a in found])
    for world_size, found in table.items():
        listed = ", ".join(f"{accuracy:.4f}" for accuracy in found)
        print(f"ZeRO {zero}, {world_size} processes: mean {means[world_size]:.4f} of {listed}")
    print(f"standard deviation over seeds {spread:.4f}")
    assert min(means.values()) > 0.8
    # the difference of two means of three has a deviation of 0.82 times the spread
    assert max(means.values()) - min(means.values()) < max(0.01, 2 * 0.82 * spread), table


@pytest.mark.long
def test_every_engine_and_world_size_reads_every_checkpoint(cifar10_exact_root: Path, tmp_path: Path) -> None:
    assert portability.main(cifar10_exact_root, tmp_path) == 0


def test_passes_are_those_of_the_busiest_process() -> None:
    assert pass_count(64, 8, 3) == 1
    assert pass_count(18, 8, 3) == 2
    assert pass_count(1, 8, 4) == 1


def test_the_loss_scale_follows_gradscalers_rule() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    mine = LossScale(growth_interval=3)
    for finite in (True, True, True, False, True, True, False, False, True, True, True):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (1.0 if finite else float("inf"))).backward()
        scaler.step(optimizer)
        scaler.update()
        mine.update(overflow=not finite)
        state = scaler.state_dict()
        assert (mine.scale, mine.growth) == (state["scale"], state["_growth_tracker"])


def test_without_deepspeed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match=r"^parallel\.engine: deepspeed.*dydist\[deepspeed\].*ddp"):
        import_deepspeed(Config())


def test_dydist_imports_without_deepspeed_or_transformers() -> None:
    code = "import sys, dydist, dydist.train, dydist.engine, dydist.run.session, dydist.cli.main as m; m.commands()\n"
    code += "assert not {'deepspeed', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("parallel", "train_options", "field"),
    [
        ({"engine": "deepspeed", "zero": 2, "offload": "param"}, {}, "parallel.offload"),
        ({"engine": "ddp", "offload": "optimizer"}, {}, "parallel.offload"),
        ({"engine": "deepspeed", "zero": 1}, {"compile": True}, "train.compile"),
        ({"engine": "deepspeed", "zero": 3}, {"ema_decay": 0.9}, "train.ema_decay"),
        ({"engine": "deepspeed", "reduce": "exact"}, {}, "parallel.reduce"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(parallel: dict, train_options: dict, field: str) -> None:
    config = Config(parallel=ParallelConfig(**parallel), train=TrainConfig(**train_options))
    with pytest.raises(UserError, match=f"^{re.escape(field)}: "):
        check_config(config)
