"""`python docs/benchmarks scaling` and the loop's own cost, run for real on a small network; the model on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from loop import loop_cost
from scaling import ScalingCost
from scaling import bench as bench_scaling
from scaling_model import all_reduce_s, predict, step_multiply_adds


@pytest.mark.long
def test_scaling_tells_what_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_scaling(width=0.0625, stem="strided", batch_size=16, pairs=2, json_=True) == 0
    told = json.loads(capsys.readouterr().out)
    step = told["measured"]["step"]
    assert {way: len(seconds) for way, seconds in step.items()} == {"one": 2, "half": 2, "two": 2}
    lost = sum(told["lost_ms"].values())
    one, two = (1000 * sum(step[way]) / 2 for way in ("one", "two"))
    assert lost == pytest.approx(two - one / 2)
    assert told["limit"] in told["lost_ms"]
    assert [row["gpus"] for row in told["paper"]] == [1, 8, 64, 256, 1024]
    assert told["measured"]["all_reduce_s"] > told["measured"]["latency_s"] / 10 > 0


def cost(**changed: object) -> ScalingCost:
    """One process 100 ms; half its batch 52; two 60, of which one is busy for 55 and the other for 53."""
    values: dict[str, object] = {
        "step": {"one": [0.100] * 3, "half": [0.052] * 3, "two": [0.060] * 3},
        "optimiser": [0.002] * 3,
        "busy": [[0.055] * 3, [0.053] * 3],
        "half_busy": [0.049, 0.050, 0.051],
        "wait": [0.003] * 3,
        "all_reduce_s": 0.02,
        "latency_s": 1e-4,
        "gradient_bytes": 1000,
    }
    return ScalingCost(**(values | changed))  # type: ignore[arg-type]


def test_what_is_lost_adds_up_and_the_most_is_named() -> None:
    losses = cost().losses_ms()
    assert list(losses.values()) == pytest.approx([1, 1, 4, 1, 3, 0])
    assert cost().limit.startswith("two processes share the machine")
    assert cost(wait=[0.009] * 3).limit == "waiting for gradients (all-reduce)"
    assert cost().speed_up.median == pytest.approx(100 / 60)
    assert cost().jitter == pytest.approx(0.02)


def test_an_all_reduce_on_paper() -> None:
    """By hand: NCCL's ring of eight GPUs on NVLink; on 128 nodes its tree has fewer steps and wins for few bytes."""
    assert all_reduce_s(1, 1e9) == 0
    assert all_reduce_s(8, 180e6) == pytest.approx((8.4 + 14 * 3.4) * 1e-6 + 2 * 7 / 8 * 180e6 / 300e9)
    assert all_reduce_s(1024, 4) == pytest.approx(2 * (7 * 28 + 7 * 28) * 1e-6, rel=1e-4)
    assert all_reduce_s(1024, 180e6) > all_reduce_s(64, 180e6) > all_reduce_s(8, 180e6)


def test_a_step_on_paper() -> None:
    options = {"images_per_gpu": 64, "multiply_adds": 2e9, "gradient_bytes": 180e6, "jitter": 0.01}
    one, many = (predict(gpus, **options) for gpus in (1, 1024))  # type: ignore[arg-type]
    assert one.efficiency == 1
    assert one.compute_ms == pytest.approx(1000 * 64 * 2e9 / (938 * 3 * 4.1e9))
    assert many.straggler_ms == pytest.approx(0.01 * one.compute_ms * math.sqrt(2 * math.log(1024)))
    assert many.step_ms == pytest.approx(
        many.compute_ms + many.all_reduce_ms - many.overlapped_ms + many.straggler_ms
    )
    assert many.limit == "all-reduce"
    calm = predict(8, **(options | {"jitter": 0.0, "gradient_bytes": 4.0}))  # type: ignore[arg-type]
    assert calm.limit == "nothing"


def test_multiply_adds_of_a_step() -> None:
    """3.2 to 3.4 forward passes of ResNet-18 on CIFAR, which has 0.555e9 without its stem."""
    assert step_multiply_adds(stem="cifar", width=1.0) == pytest.approx(3.3 * 0.555e9, rel=0.05)


def test_the_loop_is_taken_apart(tmp_path: Path) -> None:
    cost = loop_cost(stem="strided", batch_size=16, width=0.0625, steps=4, folder=tmp_path)
    assert list(cost.parts) == ["forward", "backward", "optimiser", "data wait", "the rest"]
    assert {len(seconds) for seconds in cost.parts.values()} == {4}
    assert all(min(seconds) > 0 for seconds in cost.parts.values())
    assert min(cost.own_shares) <= cost.own_share <= max(cost.own_shares)
    assert (tmp_path / "bench" / "metrics.jsonl").exists()
