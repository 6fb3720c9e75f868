"""The promise: the same weights, bit for bit, on any number of processes, uninterrupted or cut up as you like."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dydist.checkpoint import load, open_storage, survey
from dydist.compare.two import compare_runs, fingerprint
from dydist.data.loader import ShardedLoader, StepBatch
from dydist.data.order import rank_shards
from dydist.engine import Votes, World, start_world
from helpers.dynamic_networks import EVERY_ATTENTION_OPTION
from helpers.engines import configure, make
from helpers.support import PRELOAD, Run, free_port, metrics, train

STEPS = 24
SHORT = (
    *("--data.limit", "256", "--model.width", "0.0625", "--parallel.shards", "4"),
    *("--train.eval_every_epochs", "3"),
)
"""Half the steps, of a quarter of the work: every mechanism of the whole, for the ordinary suite."""


def flags(root: Path, runs: Path, name: str, precision: str = "fp32", reduce: str = "exact") -> list[object]:
    """A small DY-ResNet18 on real CIFAR images in eight shards, with all that draws random numbers switched on."""
    return [
        *("--run.dir", runs, "--run.name", name, "--data.root", root, "--data.limit", "512"),
        *(
            "--train.epochs",
            "3",
            "--train.batch_size",
            "64",
            "--parallel.shards",
            "8",
            "--train.precision",
            precision,
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
        *("--data.cutout", "8", "--parallel.reduce", reduce, "--optim.lr", "0.02"),
        *("--monitor.every_steps", "1", "--monitor.quiet", "true", "--parallel.timeout_s", "60"),
        *("--train.ema_decay", "0.9", "--temperature.per", "step", "--temperature.epochs", "2"),
    ]


def final_fingerprint(runs: Path, name: str) -> str:
    storage = open_storage(str(runs / name / "checkpoints"))
    return fingerprint(load(storage, survey(storage)[0]))


def last_steps_of_an_epoch(world: World, shards: int) -> dict[str, Any]:
    """A full step and the small last one of 4 images. The last process votes, then the first."""
    options = {"attention_norm": "batch", "attention": "l1", "channel_attention": True}
    config = configure(model=options, parallel={"shards": shards}, data={"drop_last": False})
    engine, dataset, order = make(config, world)
    mine = rank_shards(world.rank, world.size, shards)
    with ShardedLoader(
        dataset, config.data, order, mine, device=world.device, start=3, stop=5, together=False
    ) as loader:
        full, small = loader
    first = Votes(stop=world.rank == world.size - 1)
    sums = [engine.train_step(full, lr=0.05, temperature=5.0, votes=first)()]
    second = Votes(save=world.rank == 0)
    sums += [engine.train_step(small, lr=0.05, temperature=5.0, votes=second)()]
    return {"sums": sums, "norm": engine.grad_norm(), **engine.model_state()}


def both_ways(world: World) -> list[dict[str, Any]]:
    """With several subtrees a process and shards that stay empty (8), and with one shard a process (3)."""
    return [last_steps_of_an_epoch(world, shards) for shards in (8, 3)]


def one_of_several(rank: int, size: int, port: int, result: Path) -> None:
    """Runs in a process of its own, with the environment that torchrun gives it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    world = start_world(configure(parallel={"device": "cpu", "timeout_s": 60}))
    torch.save(both_ways(world), result)
    world.close()


def test_three_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    alone = both_ways(start_world(configure(parallel={"device": "cpu"})))
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)
    for state in alone:
        assert [(sums.stop, sums.save) for sums in state["sums"]] == [(True, False), (False, True)]

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port, results = free_port(), [tmp_path / str(rank) for rank in range(3)]
    processes = [
        context.Process(target=one_of_several, args=(rank, 3, port, result))
        for rank, result in enumerate(results)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for result in results:
        for mine, state in zip(torch.load(result, weights_only=False), alone, strict=True):
            assert mine.keys() == state.keys()
            assert mine["sums"] == state["sums"]
            differ = [name for name, value in state.items() if not np.array_equal(mine[name], value)]
            assert differ == []


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_to_four_processes_uninterrupted_and_cut_up_end_with_the_same_bits(
    precision: str, cifar10_exact_root: Path, tmp_path: Path
) -> None:
    table = {}
    for world_size in (1, 2, 3, 4):
        name = f"world{world_size}"
        train(flags(cifar10_exact_root, tmp_path, name, precision), world_size, tmp_path / "logs" / name)
        table[f"{world_size}, uninterrupted"] = final_fingerprint(tmp_path, name)

    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    # a run is asked to stop some steps after the one that is waited for, at most 7
    cuts = [rng.randint(low, low + 4) for low in (1, 6, 11)]
    arguments = flags(cifar10_exact_root, tmp_path, "chain", precision)
    for world_size, step in zip((4, 1, 3), cuts, strict=True):
        run = Run(arguments, world_size, tmp_path / "logs" / f"chain{world_size}", hold=step + 7)
        run.wait_for_step(tmp_path / "chain", step)
        run.signal(signal.SIGUSR1, rng.randrange(world_size))
        assert run.wait() == [75] * world_size, run.text()
    train(arguments, 2, tmp_path / "logs" / "chain2")
    table[f"4 → 1 → 3 → 2 at steps {cuts} (seed {seed})"] = final_fingerprint(tmp_path, "chain")

    print("\n".join(f"{precision} {mark} {name}" for name, mark in table.items()))
    assert len(set(table.values())) == 1, table
    result = compare_runs(tmp_path / "world1", tmp_path / "chain")
    assert result.equal
    assert result.steps_compared == STEPS


@pytest.mark.long
def test_every_option_of_the_attention_ends_with_the_same_bits(
    cifar10_exact_root: Path, tmp_path: Path
) -> None:
    """Batch norm in the attention has statistics by shard, like all batch norm."""
    marks = []
    for world_size in (1, 3):
        name = f"world{world_size}"
        arguments = [*flags(cifar10_exact_root, tmp_path, name), *EVERY_ATTENTION_OPTION]
        train(arguments, world_size, tmp_path / "logs" / name)
        marks.append(final_fingerprint(tmp_path, name))
    assert marks[0] == marks[1]


@pytest.mark.slow
def test_killed_and_stopped_it_comes_back_on_other_processes_with_the_same_bits(
    cifar10_exact_root: Path, tmp_path: Path
) -> None:
    """In mid-epoch: SIGKILL to three processes, SIGUSR1 to one of two, and the rest on one."""
    whole = [*flags(cifar10_exact_root, tmp_path, "whole"), *SHORT]
    train(whole, 1, tmp_path / "logs" / "whole")
    cut = [*flags(cifar10_exact_root, tmp_path, "cut"), *SHORT, "--checkpoint.every_steps", "2"]
    for world_size, step, number in ((3, 3, signal.SIGKILL), (2, 6, signal.SIGUSR1)):
        run = Run(cut, world_size, tmp_path / "logs" / f"cut{world_size}", hold=STEPS // 2 - 2)
        run.wait_for_step(tmp_path / "cut", step)
        run.signal(number, *(() if number == signal.SIGKILL else (1,)))
        assert run.wait() == [-number if number == signal.SIGKILL else 75] * world_size, run.text()
    text = train(cut, 1, tmp_path / "logs" / "cut1")
    result = compare_runs(tmp_path / "whole", tmp_path / "cut")
    assert result.equal, (result, text)
    assert final_fingerprint(tmp_path, "whole") == final_fingerprint(tmp_path, "cut")
    assert [line["step"] for line in metrics(tmp_path / "cut")] == list(range(1, STEPS // 2 + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "world_sizes", [(2,), pytest.param((1, 2, 3, 4), marks=pytest.mark.long)], ids=["two", "all"]
)
def test_fast_sees_the_same_images_and_differs_by_rounding(
    world_sizes: tuple[int, ...], cifar10_exact_root: Path, tmp_path: Path
) -> None:
    """At a tiny learning rate: at larger ones the network magnifies rounding (docs/exactness.md draws it)."""
    steps = 20 if len(world_sizes) > 1 else 6
    gentle = ["--optim.lr", "0.00003", "--train.max_steps", str(steps), "--train.eval_every_epochs", "3"]
    train([*flags(cifar10_exact_root, tmp_path, "exact"), *gentle], 1, tmp_path / "logs" / "exact")
    exact = metrics(tmp_path / "exact")
    assert len(exact) == steps
    for world_size in world_sizes:
        name = f"fast{world_size}"
        arguments = [*flags(cifar10_exact_root, tmp_path, name, reduce="fast"), *gentle]
        train(arguments, world_size, tmp_path / "logs" / name)
        for mine, theirs in zip(metrics(tmp_path / name), exact, strict=True):
            assert mine["data_hash"] == theirs["data_hash"]
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5), (world_size, mine["step"])
    if world_sizes == (2,):
        return
    # back on another number of processes, from the middle of an epoch
    arguments = [*flags(cifar10_exact_root, tmp_path, "elastic", reduce="fast"), *gentle]
    run = Run(arguments, 4, tmp_path / "logs" / "elastic4", hold=16)
    run.wait_for_step(tmp_path / "elastic", 10)
    run.signal(signal.SIGTERM, 2)
    assert run.wait() == [75] * 4, run.text()
    train(arguments, 3, tmp_path / "logs" / "elastic3")
    hashes = [(line["step"], line["data_hash"]) for line in metrics(tmp_path / "elastic")]
    assert hashes == [(line["step"], line["data_hash"]) for line in exact]


@pytest.mark.slow
def test_one_swapped_image_is_seen_by_the_comparison(cifar10_exact_root: Path, tmp_path: Path) -> None:
    """A shard that is broken on purpose: from step 3 on, its first image is another one."""
    few = [*SHORT, "--train.max_steps", "5"]
    train([*flags(cifar10_exact_root, tmp_path, "right"), *few], 1, tmp_path / "logs" / "right")
    broken = Run(
        [*flags(cifar10_exact_root, tmp_path, "broken"), *few],
        2,
        tmp_path / "logs" / "broken",
        before=swap_an_image,
    )
    assert broken.wait() == [0, 0], broken.text()
    result = compare_runs(tmp_path / "right", tmp_path / "broken")
    assert not result.equal
    assert result.first_difference is not None
    assert result.first_difference.step == 3
    assert "data_hash" in result.first_difference.values
    assert result.weights_equal is False


def swap_an_image() -> None:
    """Runs in the training process before it starts."""
    from dydist.data.order import Order

    indices = Order.indices

    def swapped(self: Order, step: int, shard: int) -> np.ndarray:
        found = indices(self, step, shard)
        if step >= 2 and shard == 3:
            found = found.copy()
            found[0] = (found[0] + 1) % self.size
        return found

    Order.indices = swapped  # type: ignore[method-assign]


@pytest.mark.slow
def test_one_flipped_bit_in_one_process_is_caught_before_anything_is_saved(
    cifar10_exact_root: Path, tmp_path: Path
) -> None:
    arguments = [*flags(cifar10_exact_root, tmp_path, "flip"), *SHORT, "--checkpoint.every_steps", "3"]
    run = Run(arguments, 3, tmp_path / "logs" / "flip", before=flip_a_bit)
    assert run.wait() == [1, 1, 1], run.text()
    text = run.text()
    assert (
        "step 6: processes no longer agree: rank 1 of 3 differs, first in tensor layer2.1.conv1.weight"
        in text
    )
    assert [item.step for item in survey(open_storage(str(tmp_path / "flip" / "checkpoints")))] == [3]


def flip_a_bit() -> None:
    """On rank 1, one bit of one weight flips after step 5."""
    from dydist.engine.core import TorchEngine

    step = TorchEngine.train_step

    def damaged(self: TorchEngine, batch: StepBatch, **options: Any) -> Any:
        result = step(self, batch, **options)
        if self.world.rank == 1 and batch.step == 4:
            weight = dict(self.model.named_parameters())["layer2.1.conv1.weight"]
            weight.data.view(-1).view(torch.int32)[7] ^= 1
        return result

    TorchEngine.train_step = damaged  # type: ignore[method-assign]
