"""`dydist data`: prepares data sets for runs."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import tyro

from dydist.config.data_sets import DataName
from dydist.config.types import FilePath
from dydist.text.display import show


def prepare(
    *,
    name: DataName = "cifar10",
    root: FilePath = "data",
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Download a data set if it is missing, convert it, verify every byte, and print its location.

    On a cluster whose nodes have no network, run it once on the login node, with the root that runs will use.

    Example: dydist data prepare --name cifar10 --root data

    Args:
        name: Which data set.
        root: Folder of the data, as data.root of a run. An archive that lies there is unpacked, not downloaded.
        json_: Print JSON.
    """
    from pathlib import Path

    from dydist.config import DataConfig
    from dydist.data import open_dataset
    from dydist.data.cifar import LAYOUTS, data_root
    from dydist.data.prepare_cifar import verified_cifar

    report: dict[str, object] = {"name": name, "source": None, "converted": None}
    if name in LAYOUTS:
        cached = verified_cifar(LAYOUTS[name], Path(root), progress=lambda line: show(line, file=sys.stderr))
        root = str(data_root(LAYOUTS[name], Path(root)))
        report["source"] = str((Path(root) / LAYOUTS[name].folder).resolve())
        report["converted"] = str(cached.folder.resolve())
    config = DataConfig(name=name, root=root)
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
    show(f"source     {report['source'] or 'none: made where it is used, nothing to keep'}")
    if report["converted"]:
        show(f"converted  {report['converted']} (verified by SHA-256, memory-mapped by every run)")
        show(f"use it     --data.name {name} --data.root {Path(root).resolve()}")
    else:
        show(f"use it     --data.name {name}")


COMMANDS = {"data prepare": prepare}
