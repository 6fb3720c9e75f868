"""The machine that a process runs on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """The CPU's model, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
