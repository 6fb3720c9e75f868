"""Versions and hardware of a process, for the report and for later comparisons of results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from typing import Any

import psutil

from dydist.machine import processor_name
from dydist.process.report import job_name

PACKAGES = ("dydist", "torch", "accelerate", "deepspeed", "torchvision", "numpy")


def identity(world_size: int) -> dict[str, Any]:
    """Host, processes, versions and hardware of this process."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": job_name(os.environ),
        "world_size": world_size,
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "cpu": processor_name(),
            "cores": psutil.cpu_count(logical=True),
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": gpus,
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
