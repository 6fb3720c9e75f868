"""`dydist data`: prepares data sets for runs."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import tyro

from dydist.config.data_sets import DataName
from dydist.config.types import Added, Count, FilePath, Index
from dydist.text.display import show


def prepare(
    *,
    name: Annotated[DataName, Added("dydist.data_sets")] = "cifar10",
    root: FilePath = "data",
    side: Count = 64,
    test_fraction: float = 0.2,
    split_seed: Index = 0,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Download a data set if it is missing, convert it, verify every byte, and print its location.

    On a cluster whose nodes have no network, run it once on the login node, with the root that runs will use. A folder
    of images is converted with all cores; bad files are named, all of them at once.

    Example: dydist data prepare --name cifar10 --root data

    Example: dydist data prepare --name folder --root photos --side 64

    Args:
        name: Which data set.
        root: Folder of the data, as data.root of a run. An archive that lies there is unpacked, not downloaded.
        side: Height and width to which the images of a folder are scaled, as data.side of a run.
        test_fraction: Share of each class for the test split, if a folder or an .npz file has no split.
        split_seed: Seed of that split.
        json_: Print JSON.
    """
    from pathlib import Path

    from dydist.config import Config, DataConfig
    from dydist.config.rules import check_config
    from dydist.data import open_dataset
    from dydist.data.arrays import open_npz
    from dydist.data.cache import verified
    from dydist.data.cifar import LAYOUTS, data_root
    from dydist.data.prepare_cifar import open_cifar
    from dydist.data.prepare_folder import open_folder

    def progress(line: str) -> None:
        show(line, file=sys.stderr)

    config = DataConfig(name=name, root=root, side=side, test_fraction=test_fraction, split_seed=split_seed)
    check_config(Config(data=config))
    report: dict[str, object] = {"name": name, "source": None, "converted": None}
    use = f"--data.name {name}"
    if name in LAYOUTS:
        layout = LAYOUTS[name]
        cached = verified(
            lambda: open_cifar(layout, Path(root), allow_download=True, cache_dir=None, progress=progress),
            progress,
        )
        parent = data_root(layout, Path(root))
        report |= {
            "source": str((parent / layout.folder).resolve()),
            "converted": str(cached.folder.resolve()),
        }
        use += f" --data.root {parent.resolve()}"
    elif name in ("folder", "npz"):
        opened = open_folder if name == "folder" else open_npz
        cached = verified(lambda: opened(config, cache_dir=None, progress=progress), progress)
        report |= {"source": str(Path(root).resolve()), "converted": str(cached.folder.resolve())}
        use += f" --data.root {Path(root).resolve()}" + f" --data.side {side}" * (name == "folder")
        for field, value, default in (
            ("test_fraction", test_fraction, 0.2),
            ("split_seed", split_seed, 0),
        ):
            use += f" --data.{field} {value}" * (value != default)
    train, test = open_dataset(config, "train"), open_dataset(config, "test")
    report |= {
        "train_images": len(train),
        "test_images": len(test),
        "image_shape": list(train.images.shape[1:]),
        "classes": list(train.classes),
    }
    if json_:
        print(json.dumps(report, indent=1))
        return
    shape = " × ".join(map(str, train.images.shape[1:]))
    show(f"{name}: {len(train):,} training and {len(test):,} test images of {shape} bytes")
    show(
        f"classes    {len(train.classes)}: {', '.join(train.classes[:10])}{', …' * (len(train.classes) > 10)}"
    )
    show(f"source     {report['source'] or 'none: generated when it is used, nothing to keep'}")
    if report["converted"]:
        show(f"converted  {report['converted']} (verified by SHA-256, memory-mapped by every run)")
    show(f"use it     {use}")


COMMANDS = {"data prepare": prepare}
