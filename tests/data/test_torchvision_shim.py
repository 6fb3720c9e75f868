"""torchvision imports with and without its compiled operators; each case in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)


@pytest.mark.long  # the benchmark of loaders imports them in the ordinary suite
def test_models_datasets_and_transforms_import() -> None:
    done = _python(
        "from dydist.data.torchvision_shim import import_torchvision\n"
        "tv = import_torchvision(); assert import_torchvision() is tv\n"
        "import torch, torchvision.datasets; from torchvision.transforms import v2\n"
        "v2.RandAugment()(torch.zeros(3, 8, 8, dtype=torch.uint8))\n"
        "print(tv.models.resnet18(num_classes=10).eval()(torch.zeros(1, 3, 32, 32)).shape[1])\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "10"


@pytest.mark.long
def test_declares_nothing_where_the_operators_load() -> None:
    done = _python(
        "import dydist.data.torchvision_shim as shim\n"
        "loads = shim._operators_load()\n"
        "tv = shim.import_torchvision()\n"
        "assert tv.extension._has_ops() == loads\n"
        "assert bool(shim._libraries) == (not loads)\n"
    )
    assert done.returncode == 0, done.stderr
