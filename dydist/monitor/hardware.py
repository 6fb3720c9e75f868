"""What a process runs on and with: for the report, and for whoever asks later why a figure differs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Any

import psutil

from dydist.process_report import job_name

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
            "cpu": _cpu(),
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


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
