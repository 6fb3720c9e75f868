"""A folder of JPEG files: conversion against decoding alone, loading against torchvision's ImageFolder, waiting."""

from __future__ import annotations

import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from dydist.bench.pairs import interleave
from dydist.cli.bench_output import JsonFlag, print_json, print_machine, print_table, start
from dydist.config import DataConfig
from dydist.config.types import Count
from dydist.data import ImageDataset, open_dataset
from dydist.data.loader import ShardedLoader
from dydist.data.order import Order
from dydist.machine import usable_cores
from dydist.monitor import read_lines
from dydist.text.display import show

CLASSES, WIDTH, HEIGHT = 10, 320, 256
TRAIN = Path(__file__).parents[2] / "dydist" / "train.py"
LEAST_AREA = 0.35


def write_folder(root: Path, images: int) -> list[Path]:
    """Write `images` JPEG files of 320 × 256 pixels, as detailed as photographs, in class folders."""
    rng = np.random.default_rng(0)
    paths = [
        root
        / ("test" if number % 10 == 9 else "train")
        / f"class-{number // 10 % CLASSES}"
        / f"{number:06d}.jpg"
        for number in range(images)
    ]
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True)

    def write(path: Path, seed: int) -> None:
        own = np.random.default_rng(seed)
        coarse = Image.fromarray(own.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = own.integers(-12, 13, (HEIGHT, WIDTH, 1), dtype=np.int16)
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, paths, rng.integers(0, 1 << 32, images)))
    return paths


def decoding_s(paths: list[Path], side: int) -> float:
    """Seconds to decode the files on all cores, at the fraction of their size that the conversion asks for."""

    def decode(path: Path) -> None:
        with Image.open(path) as image:
            image.draft(None, (2 * side, 2 * side))
            image.load()

    began = time.monotonic()
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(decode, paths))
    return time.monotonic() - began


def our_epoch(dataset: ImageDataset, config: DataConfig, batch_size: int) -> int:
    """Read one epoch as a run on the CPU does; returns the number of images."""
    order = Order(seed=0, size=len(dataset), batch_size=batch_size, shards=4)
    steps = order.steps_per_epoch
    with ShardedLoader(
        dataset,
        config,
        order,
        range(4),
        device=torch.device("cpu"),
        start=0,
        stop=steps,
        together=True,
    ) as loader:
        return sum(len(batch.groups[0].labels) for batch in loader)


def torchvision_loader(root: Path, images: int, side: int, batch_size: int) -> DataLoader[Any]:
    """The first `images` of torchvision's ImageFolder with the same augmentation, and two worker processes."""
    from dydist.data.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(side, scale=(LEAST_AREA, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return DataLoader(
        Subset(ImageFolder(str(root / "train"), transform), range(images)),
        batch_size,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )


def waiting(root: Path, side: int, folder: Path, steps: int) -> float:
    """Share of a run's steps that waits for images, 0 to 1: static ResNet-18 at an eighth of its width, one process."""
    name = f"side-{side}"
    command = [
        *(sys.executable, str(TRAIN), "--run.dir", str(folder), "--run.name", name, "--monitor.quiet", "true"),
        *("--data.name", "folder", "--data.root", str(root), "--data.side", str(side)),
        *("--data.resized_crop", str(LEAST_AREA), "--model.kind", "static", "--model.stem", "imagenet"),
        *("--model.width", "0.125", "--optim.kernel_lr", "1", "--train.batch_size", "64"),
        *("--train.max_steps", str(steps), "--train.epochs", "100", "--optim.warmup_epochs", "0"),
        *("--train.eval_every_epochs", "100", "--monitor.every_steps", "5"),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = [line for line in read_lines(folder / name / "metrics.jsonl") if line["kind"] == "step"]
    return statistics.median(line["data_wait_s"] / line["step_s"] for line in lines[1:])


def measure(
    root: Path, paths: list[Path], side: int, folder: Path, *, pairs: int, steps: int
) -> dict[str, float]:
    """All figures of one side length; rates in images per second, as medians of `pairs` interleaved rounds."""
    decoded = len(paths) / decoding_s(paths, side)
    config = DataConfig(name="folder", root=str(root), side=side, resized_crop=LEAST_AREA, flip=True)
    began = time.monotonic()
    dataset = open_dataset(config, "train", cache_dir=folder / "cache")
    converted = len(paths) / (time.monotonic() - began)
    batch_size = 64
    some = max(batch_size, len(paths) // 10 // batch_size * batch_size)
    loader = torchvision_loader(root, some, side, batch_size)
    taken = {"ours": 0, "theirs": 0}

    def ours() -> None:
        taken["ours"] = our_epoch(dataset, config, batch_size)

    def theirs() -> None:
        taken["theirs"] = sum(len(labels) for _, labels in loader)

    ways: dict[str, Callable[[], Any]] = {"ours": ours, "theirs": theirs}
    seconds = interleave(ways, pairs=pairs)
    rates = {name: statistics.median(taken[name] / one for one in seconds[name]) for name in ways}
    return {
        "decoding": decoded,
        "conversion": converted,
        "loading": rates["ours"],
        "ImageFolder": rates["theirs"],
        "waiting": waiting(root, side, folder, steps),
    }


def bench(
    *,
    images: Count = 20_000,
    sides: tuple[Count, ...] = (64, 224),
    pairs: Count = 5,
    steps: Count = 60,
    json_: JsonFlag = False,
) -> int:
    """Folders of JPEG files, on the CPU: how fast they are converted and loaded, and how long training waits for them.

    Example: python docs/benchmarks images --images 2000 --pairs 3

    Args:
        images: JPEG files of 320 x 256 pixels, which are written to a temporary folder first.
        sides: Values of data.side.
        pairs: Rounds in which loading and torchvision's ImageFolder with two workers take turns.
        steps: Steps of the training run whose waiting is measured.
        json_: Print the result as JSON.
    """
    start(None)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        paths = write_folder(root, images)
        found = {
            side: measure(root, paths, side, Path(name) / str(side), pairs=pairs, steps=steps)
            for side in sides
        }
    if json_:
        print_json({str(side): values for side, values in found.items()})
        return 0
    rows = [
        [
            str(side),
            *(f"{one[key]:,.0f}" for key in ("decoding", "conversion", "loading", "ImageFolder")),
            f"{one['loading'] / one['ImageFolder']:.1f}",
            f"{one['waiting']:.2%}",
        ]
        for side, one in found.items()
    ]
    header = ["side", "decoding/s", "conversion/s", "loading/s", "ImageFolder/s", "ratio", "waiting"]
    print_table(header, rows)
    show(f"{images:,} files; decoding and conversion on {usable_cores()} cores")
    print_machine()
    return 0
