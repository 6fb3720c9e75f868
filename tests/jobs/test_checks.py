"""Preflight: what one node finds, and what the first node makes of all reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dydist.jobs.node.checks import (
    Finding,
    check_clock,
    check_disk,
    check_gpus,
    check_storage,
    judge_gpus,
    versions,
)
from dydist.jobs.node.preflight import NodeReport, compare, compare_probes
from dydist.jobs.node.probe import matmul

GPU = "0, NVIDIA H100, 3, 81559, 0, 1980, 1980, Not Active"


def texts(findings: Any) -> list[str]:
    return [f"{one.level}: {one.text}" for one in findings]


def test_a_healthy_machine_has_no_findings(tmp_path: Path) -> None:
    assert not list(check_storage(tmp_path))
    assert check_clock(tmp_path)[1] == []
    assert not list(check_disk(tmp_path, free=1, scratch_free=1))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    (found,) = check_disk(tmp_path / "not" / "yet", free=1 << 60, scratch_free=1)
    assert (found.level, found.shared) == ("bad", True)
    assert str(tmp_path) in found.text


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found,) = check_storage(tmp_path / "file")
    assert found.shared
    assert "cannot be written" in found.text


def test_a_clock_that_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch = Path.write_bytes

    def stamped(self: Path, content: bytes) -> int:
        written = touch(self, content)
        os.utime(self, (1.0, 1.0))  # a file server that lives in 1970
        return written

    monkeypatch.setattr(Path, "write_bytes", stamped)
    skew, (found,) = check_clock(tmp_path)
    assert skew > 1e9
    assert (found.level, "start NTP" in found.text) == ("bad", True)


def test_a_good_gpu() -> None:
    assert texts(judge_gpus(GPU, 1, None)) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GPU.replace(" 3,", " 40000,"), "bad: GPU 0 (NVIDIA H100) is not free: 40000 of 81559 MiB in use"),
        (GPU.replace("81559, 0,", "81559, 2,"), "bad: GPU 0 (NVIDIA H100) has 2 uncorrected ECC errors"),
        (
            GPU.replace("1980, 1980, Not", "900, 1980,"),
            "note: GPU 0 (NVIDIA H100) is slowed down by heat or power (900 of 1980 MHz)",
        ),
    ],
)
def test_a_bad_gpu(row: str, message: str) -> None:
    assert texts(judge_gpus(row, 1, None)) == [message]


def test_only_visible_gpus_count() -> None:
    two = f"{GPU}\n1{GPU[1:]}"
    assert texts(judge_gpus(two, 2, None)) == []
    assert texts(judge_gpus(two, 2, "1")) == ["bad: 1 GPUs are visible, 2 are needed"]
    assert texts(judge_gpus(GPU.replace("81559, 0,", "81559, [N/A],"), 1, "GPU-uuid")) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_where_one_is_wanted() -> None:
    (found,) = check_gpus(1)
    assert "--cpu" in found.text or "nvidia-smi failed" in found.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpus_of_this_machine() -> None:
    assert not [one for one in check_gpus(1) if one.level == "bad"]
    right, gflops = matmul(torch.device("cuda"))
    assert right
    assert gflops > 1000


def test_matmul_is_right_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right, gflops = matmul(torch.device("cpu"), 128)
    assert right
    assert gflops > 0
    good = torch.Tensor.__matmul__

    def broken(left: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        product = good(left, other)
        if product.dtype == torch.float32:
            product[0, 0] += 1
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    assert matmul(torch.device("cpu"), 128)[0] is False


def report(name: str, *findings: Finding, **changed: str) -> NodeReport:
    return NodeReport(name=name, findings=findings, versions={**versions(), **changed})


BAD = Finding(level="bad", text="GPU 3 has 2 uncorrected ECC errors")


def test_a_bad_node_is_named() -> None:
    verdict = compare([report("n1"), report("n2", BAD), report("n3")])
    assert verdict.bad == {"n2": [BAD.text]}
    assert not verdict.everywhere
    assert verdict.message == f"node n2: {BAD.text}"


def test_a_node_unlike_the_others_and_a_silent_one() -> None:
    verdict = compare([report("n1"), report("n2", torch="1.0"), report("n3")], missing=["n4"])
    assert set(verdict.bad) == {"n2", "n4"}
    assert verdict.bad["n2"][0].startswith("torch is 1.0, and ")


def test_what_is_wrong_everywhere_is_no_nodes_fault() -> None:
    verdict = compare([report("n1", BAD), report("n2", BAD)])
    assert (verdict.bad, verdict.everywhere) == ({}, [BAD.text])
    shared = Finding(level="bad", text="full", shared=True)
    assert compare([report("n1", shared)]).everywhere == ["full"]
    assert compare([report("n1", BAD)]).bad == {"n1": [BAD.text]}


def test_probes_name_wrong_results_and_stragglers() -> None:
    def probe(rank: int, gflops: float, right: bool = True) -> dict[str, Any]:
        return {
            "rank": rank,
            "device": "cuda:0",
            "gflops": gflops,
            "matmul_right": right,
            "all_reduce_right": True,
        }

    verdict = compare_probes(
        {"n1": [probe(0, 100), probe(1, 98)], "n2": [probe(2, 50), probe(3, 101, False)]}
    )
    assert verdict.bad == {"n2": ["rank 3: a matrix product came out wrong on cuda:0"]}
    assert verdict.notes == ["straggler: rank 2 on node n2 computes 50 GFLOP/s, the median is 100"]
