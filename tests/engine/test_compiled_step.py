"""train.compile through a real engine: a small network, equal to eager, compiled once."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn

from dydist.config import Config, ModelConfig, ParallelConfig, TrainConfig
from dydist.data.loader import ShardGroup, StepBatch
from dydist.engine import Engine, StepSums, Votes, World
from dydist.engine.ddp import DdpEngine
from helpers.dynamic_networks import Small


def steps(compile: bool, mode: CompileMode = "default") -> tuple[list[StepSums], Engine]:
    """Three steps at three temperatures and learning rates."""
    torch.manual_seed(0)
    config = Config(
        model=ModelConfig(dropout=0.1),
        train=TrainConfig(batch_size=8, compile=compile, compile_mode=mode),
        parallel=ParallelConfig(shards=2),
    )
    world = World(0, 1, torch.device("cpu"))
    engine = DdpEngine(config, Small(), world)
    generator = torch.Generator().manual_seed(1)
    sums = []
    for step, (lr, temperature) in enumerate([(0.1, 30.0), (0.2, 10.0), (0.05, 1.0)]):
        images = torch.randn(8, 3, 6, 6, generator=generator)
        labels = torch.randint(10, (8,), generator=generator)
        batch = StepBatch(step, 8, (ShardGroup((0, 1), images, labels, None, 7),))
        sums.append(engine.train_step(batch, lr=lr, temperature=temperature, votes=Votes())())
    return sums, engine


CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own import
@pytest.mark.parametrize(
    ("mode", "backend"),
    [
        ("default", "aot_eager"),
        pytest.param("default", "inductor", marks=pytest.mark.long),
        pytest.param("reduce-overhead", "inductor", marks=pytest.mark.long),
    ],
)
def test_a_compiled_step_equals_an_eager_one_and_is_compiled_once(
    mode: CompileMode, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aot_eager traces forward and backward as inductor does, without half a minute of compiling C++."""
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **more: compile(self, backend=backend, **more))
    eager, plain = steps(compile=False)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    # Neither temperature nor learning rate is a constant of the graph.
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled, engine = steps(compile=True, mode=mode)
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-4, atol=1e-5)
        assert (ours.accuracy, ours.data_hash) == (theirs.accuracy, theirs.data_hash)
    for name, value in plain.model_state().items():
        torch.testing.assert_close(engine.model_state()[name], value, rtol=1e-3, atol=1e-5)
    counters = torch._dynamo.utils.counters["stats"]
    assert counters["unique_graphs"] == 1
    torch.compiler.reset()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:dynamo_pgo force disabled")
def test_what_a_compiled_step_writes_in_place_is_static(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Inductor leaves CUDA graphs out, in a log line, where a pass writes to a tensor that may lie elsewhere next time.

    Batch statistics are written in each pass: inductor must know all that is written for static. Seen on a CPU, by
    what it is handed.
    """
    from torch._inductor import compile_fx  # warns where it is imported
    from torch._inductor import config as inductor_config

    inner = compile_fx._compile_fx_inner
    written: list[set[int]] = []
    static: list[set[int]] = []

    def spy(graph: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        copies = [n.args[0] for n in graph.graph.nodes if n.target is torch.ops.aten.copy_.default]
        written.append({places.index(target) for target in copies if target in places})
        static.append(set(options["static_input_idxs"]))
        return inner(graph, inputs, **options)

    monkeypatch.setattr(compile_fx, "_compile_fx_inner", spy)
    torch.compiler.reset()
    with inductor_config.patch(force_disable_caches=True):
        _, engine = steps(compile=True, mode="reduce-overhead")
    torch.compiler.reset()
    assert len(written) == 2  # forward and backward
    assert len(written[0]) == 2  # sums of means and of variances
    assert all(places <= fixed for places, fixed in zip(written, static, strict=True))
    # ... and lies where an input is taken as it is: inductor copies what begins elsewhere
    assert [place.data_ptr() % 16 for place in (engine.model.bn._mean_sum, engine.model.bn._var_sum)] == [
        0,
        0,
    ]
