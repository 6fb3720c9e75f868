"""What a GPU computes, against the CPU: strategies, CUDA graphs, a killed run, checkpoints that go to a CPU, memory.

`DYDIST_TEST_GPU=1 pytest tests/gpu` (docs/contributing.md).
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dydist.bench.conv import peak_memory
from dydist.bench.target import Target
from dydist.compare.two import compare_runs
from dydist.config import Config, ModelConfig, ParallelConfig, TrainConfig
from dydist.data.loader import ShardGroup, StepBatch
from dydist.engine import StepSums, Votes, World
from dydist.engine.ddp import DdpEngine
from dydist.models import dy_resnet18
from dydist.models.strategies import Geometry, dynamic_conv2d
from dydist.models.strategies.stacked import triton_reason
from helpers.convolutions import SAME, Case, gradients
from helpers.dynamic_networks import Small
from helpers.reference import loop
from helpers.support import REPOSITORY, Run, metrics, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and DYDIST_TEST_GPU=1")

STRATEGIES = ["grouped", "mix", "blocked", "taps", "stacked", "fused"]
CASES = [
    Case(5, 4, 64, 64, (3, 3), (16, 16), SAME, False, 0),
    Case(9, 4, 72, 40, (3, 3), (9, 10), Geometry((2, 2), (1, 1), (1, 1), 1), True, 1),
    Case(3, 3, 34, 66, (3, 3), (7, 5), Geometry((2, 1), (1, 2), (1, 2), 2), False, 2),
    Case(4, 4, 64, 128, (1, 1), (8, 8), Geometry((2, 2), (0, 0), (1, 1), 1), False, 3),
    Case(6, 4, 96, 48, (3, 3), (2, 2), SAME, False, 4),
    Case(7, 1, 20, 33, (3, 3), (1, 1), SAME, True, 5),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", CASES)
def test_strategies_equal_the_loop(case: Case, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    exact = case.tensors()
    expected = loop(*exact, case.geometry)  # type: ignore[arg-type]
    wanted = [expected, *gradients(expected, exact)]
    for dtype, allowed in ((torch.float32, 2e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)):
        here = [None if t is None else t.detach().float().cuda().requires_grad_() for t in exact]
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            out = dynamic_conv2d(*here, *case.geometry, strategy=strategy)  # type: ignore[misc, arg-type]
        assert out.dtype == dtype
        if strategy == "stacked":
            assert triton_reason("cuda") is None
        for got, want in zip([out, *gradients(out, here)], wanted, strict=True):
            far = (got.double().cpu() - want).norm() / want.norm()
            assert far < allowed, (dtype, float(far))


def steps(device: str, mode: str | None, network: nn.Module) -> tuple[list[StepSums], DdpEngine]:
    """Six steps at changing temperatures and learning rates."""
    config = Config(
        model=ModelConfig(dropout=0.1),
        train=TrainConfig(batch_size=16, compile=mode is not None, compile_mode=mode or "default"),  # type: ignore[arg-type]
        parallel=ParallelConfig(shards=2),
    )
    engine = DdpEngine(config, network, World(0, 1, torch.device(device)))
    generator = torch.Generator().manual_seed(1)
    sums = []
    for step in range(6):
        images = torch.randn(16, 3, 32, 32, generator=generator).to(device)
        labels = torch.randint(10, (16,), generator=generator).to(device)
        batch = StepBatch(step, 16, (ShardGroup((0, 1), images, labels, None, 7),))
        sums.append(
            engine.train_step(batch, lr=1e-4 * (step + 1), temperature=30.0 - 5 * step, votes=Votes())()
        )
    return sums, engine


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def test_steps_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    (ours, engine), (theirs, other) = (steps(device, None, small()) for device in ("cuda", "cpu"))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.loss, want.loss, rtol=1e-4, atol=1e-5)
    for name, value in other.model_state().items():
        torch.testing.assert_close(engine.model_state()[name].cpu(), value, rtol=1e-3, atol=1e-5)


def full() -> nn.Module:
    torch.manual_seed(0)
    return dy_resnet18(stem="strided", width=0.25, dropout=0.1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:dynamo_pgo force disabled")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # left out on purpose, to compare
@pytest.mark.parametrize("network", [small, pytest.param(full, marks=pytest.mark.long)])
def test_a_compiled_network_is_replayed_as_cuda_graphs(
    network: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled once, nothing left out of the graphs in silence, and the same values."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    eager, plain = steps("cuda", None, network())
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled, engine = steps("cuda", "reduce-overhead", network())
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got.loss, want.loss, rtol=1e-3, atol=1e-4)
    for name, value in plain.model_state().items():
        far = (engine.model_state()[name].float() - value.float()).norm() / (value.float().norm() + 1e-6)
        assert far < 1e-3, (name, float(far))
    torch.compiler.reset()


def flags(runs: Path, name: str, *more: object) -> list[object]:
    """A tiny network on digits: 22 steps an epoch, two epochs, on the GPU."""
    return [
        *("--config", REPOSITORY / "launch/recipes/quickstart.yaml", "--run.dir", runs, "--run.name", name),
        *("--train.epochs", "2", "--temperature.epochs", "1", "--parallel.device", "cuda"),
        *("--model.width", "0.25", "--monitor.every_steps", "1"),
        *more,
    ]


def test_killed_and_back_ends_with_the_same_bits(tmp_path: Path) -> None:
    """reduce=exact on a GPU: SIGTERM in mid-epoch, SIGKILL, then to the end."""
    exact = ("--parallel.reduce", "exact", "--checkpoint.every_steps", "10")
    train(flags(tmp_path, "whole", *exact), 1, tmp_path / "log-whole")
    for number, step in ((signal.SIGTERM, 5), (signal.SIGKILL, 25)):
        run = Run(flags(tmp_path, "cut", *exact), 1, tmp_path / f"log-{step}", hold=step + 10)
        run.wait_for_step(tmp_path / "cut", step)
        run.signal(number)
        run.wait()
    train(flags(tmp_path, "cut", *exact), 1, tmp_path / "log-end")
    result = compare_runs(tmp_path / "whole", tmp_path / "cut")
    assert result.equal, result
    assert result.steps_compared == 44


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_a_gpu_is_evaluated_on_a_cpu(precision: str, tmp_path: Path) -> None:
    train(flags(tmp_path, "run", "--train.precision", precision), 1, tmp_path / "log")
    logged = metrics(tmp_path / "run", "evaluation")[-1]
    assert logged["accuracy"] > 0.5
    told = {}
    for device in ("cuda", "cpu"):  # processes of their own: Accelerate keeps to one device
        command = [sys.executable, "-m", "dydist.cli.main", "evaluate", tmp_path / "run", "--device", device]
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        told[device] = json.loads(done.stdout)["accuracy"]
    assert told["cuda"] == logged["accuracy"]
    assert told["cpu"] == pytest.approx(logged["accuracy"], abs=2 / 360)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs the extra deepspeed")
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_deepspeed_trains_on_a_gpu(zero: int, tmp_path: Path) -> None:
    more = ("--parallel.engine", "deepspeed", "--parallel.zero", zero, "--train.max_steps", "30")
    train(flags(tmp_path, "run", *more), 1, tmp_path / "log")
    train(flags(tmp_path, "ddp", "--train.max_steps", "30"), 1, tmp_path / "log-ddp")
    ours, theirs = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("run", "ddp"))
    assert ours[:3] == pytest.approx(theirs[:3], rel=0.01)
    assert sum(ours[-5:]) < 0.7 * sum(ours[:5])


def test_memory_of_a_step_is_bounded() -> None:
    """At most 1.5 times the static network's, plus the extra weights with gradient and momentum."""
    options: dict[str, Any] = {
        "stem": "cifar",
        "batch_size": 512,
        "width": 1.0,
        "target": Target("cuda", "bf16"),
    }
    static, dynamic = (peak_memory(kind, measure=True, **options) for kind in ("static", "dynamic"))  # type: ignore[arg-type]
    extra = (44_959_458 - 11_173_962) * 4 * 3
    assert dynamic < 1.5 * static + extra, (static, dynamic)
