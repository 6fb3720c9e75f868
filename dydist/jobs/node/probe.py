"""One process of a full preflight: checks arithmetic, and measures its speed and the network's.

Launched like training, with the same ranks; writes `probe-RANK.json` to DYDIST_EXIT_DIR.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path: the package's folder must not shadow other modules
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from dydist.jobs.files import write_json
from dydist.process.end import close_process_group, run_to_end
from dydist.process.launcher import Process
from dydist.process.report import ProcessReport

REPEATS = 5


def main() -> int:
    """Measure and write the result; returns 0 in any case: the first node judges."""
    report = ProcessReport.from_environment()
    report.start()
    try:
        result = measure(report)
    except Exception as error:
        report.finish(1, f"{type(error).__name__}: {error}")
        raise
    write_json(Path(os.environ["DYDIST_EXIT_DIR"]) / f"probe-{report.rank}.json", result)
    report.finish(0)
    return 0


def measure(report: ProcessReport) -> dict[str, Any]:
    """GFLOP/s of a matrix product, and GB/s of all-reduces within the node and across all."""
    import torch
    from torch import distributed as dist

    process = Process.from_environment(os.environ)
    world, local = process.world_size, process.local_rank
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    right, gflops = matmul(device)
    report.heartbeat(1)
    result: dict[str, Any] = {
        "rank": report.rank, "node": os.environ.get("DYDIST_NODE", ""), "device": str(device), "gflops": gflops,
        "matmul_right": right, "all_reduce_right": True, "across_gb_s": None, "within_gb_s": None,
    }  # fmt: skip
    if world == 1:
        return result
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        here = process.local_world_size
        groups = [dist.new_group(list(range(first, first + here))) for first in range(0, world, here)]
        result["all_reduce_right"], result["across_gb_s"] = all_reduce(device, world, None)
        report.heartbeat(2)
        if here > 1:
            good, result["within_gb_s"] = all_reduce(device, here, groups[report.rank // here])
            result["all_reduce_right"] &= good
    finally:
        close_process_group()
    return result


def matmul(device: Any, size: int | None = None) -> tuple[bool, float]:
    """Whether a product of small integers, exact in fp32, is correct; and its GFLOP/s."""
    import torch

    size = size or (4096 if device.type == "cuda" else 512)
    rows = (torch.arange(size * size) % 7 - 3).reshape(size, size)
    columns = (torch.arange(size * size) % 5 - 2).reshape(size, size)
    picked = torch.arange(0, size, max(1, size // 64))
    expected = rows[picked].to(torch.float64) @ columns.to(torch.float64)
    left, right = rows.to(device, torch.float32), columns.to(device, torch.float32)
    product = left @ right
    good = bool(torch.equal(product[picked.to(device)].cpu().to(torch.float64), expected))
    seconds = _best(lambda: torch.matmul(left, right, out=product), device)
    return good, 2 * size**3 / seconds / 1e9


def all_reduce(device: Any, size: int, group: Any) -> tuple[bool, float]:
    """Whether the sum over `size` processes is correct; and the bus bandwidth in GB/s, 2 (n − 1) / n of the bytes."""
    import torch
    from torch import distributed as dist

    elements = (64 << 20 if device.type == "cuda" else 4 << 20) // 4
    tensor = torch.ones(elements, device=device)
    dist.all_reduce(tensor, group=group)
    good = bool((tensor == size).all())
    seconds = _best(lambda: dist.all_reduce(tensor, group=group), device)
    return good, 4 * elements * 2 * (size - 1) / size / seconds / 1e9


def _best(function: Callable[[], Any], device: Any) -> float:
    """Seconds of the fastest of several calls."""
    import torch

    def once() -> float:
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    return min(once() for _ in range(REPEATS))


if __name__ == "__main__":
    run_to_end(main)
