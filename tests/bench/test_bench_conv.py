"""`dydist bench conv|step`, run for real on a small network; pairs and ratios; the reference; peak memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from dydist.bench.conv import limit, peak_memory, step_costs
from dydist.bench.pairs import Ratio, interleave
from dydist.bench.reference import ReferenceDynamicConv2d
from dydist.bench.subprocess_steps import subprocess_steps
from dydist.bench.target import Target
from dydist.cli.main import main
from dydist.models.strategies import Geometry, Shape, dynamic_conv2d

SAME = Geometry((1, 1), (1, 1), (1, 1), 1)


def test_conv_tells_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "0.0625", "--batch-size", "4", "--pairs", "2", "--stem", "imagenet"]
    assert main(["bench", "conv", *small, "--json", "--strategies", "auto", "mix"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["layers"]) == 19
    first = told["layers"][0]
    assert first["name"] == "layer1.0.conv1"
    assert first["shape"] == "4→4, 3x3, 8x8"
    assert set(first["ratio"]) == {"auto", "mix"}
    assert (
        0 < first["ratio"]["mix"]["low"] <= first["ratio"]["mix"]["median"] <= first["ratio"]["mix"]["high"]
    )
    assert told["machine"]["torch"] == torch.__version__
    assert main(["bench", "conv", *small]) == 0
    assert "layer4.1.conv2" in capsys.readouterr().out


def test_step_tells_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "0.0625", "--batch-size", "4", "--pairs", "2", "--stem", "strided"]
    assert main(["bench", "step", *small, "--public-in-large-pages", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["ratios"]) == {
        "dynamic / static",
        "public / dynamic",
        "public, large pages / dynamic",
    }
    assert len(told["seconds"]["public"]) == 2
    assert main(["bench", "step", *small, "--no-public"]) == 0
    assert "dynamic / static: " in capsys.readouterr().out


@pytest.mark.long
def test_step_in_half_precision_with_measured_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "0.0625", "--batch-size", "4", "--pairs", "2", "--stem", "imagenet", "--no-public"]
    assert (
        main(["bench", "step", *small, "--precision", "bf16", "--measure", "--device", "cpu", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["precision"], told["compile"]) == ("bf16", "off")
    assert all(value > 0 for value in told["seconds"]["dynamic"])


def test_a_gpu_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("conv", "step"):
        assert main(["bench", command, "--device", "cuda"]) == 2
        assert "--device: cuda is not there" in capsys.readouterr().err


def test_what_a_gpu_cannot_tell_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", "step", "--public-in-large-pages"]) == 2
    assert capsys.readouterr().err.count("--public-in-large-pages: ") == 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own import
def test_a_compiled_step_can_be_measured() -> None:
    target = Target("cpu", "fp32", "default")
    torch.compiler.reset()
    options: dict[str, Any] = {"stem": "imagenet", "batch_size": 2, "width": 0.0625}
    seconds = step_costs(**options, kinds=["static"], pairs=1, target=target)
    assert 0 < seconds["static"][0] < 60
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    torch.compiler.reset()


def test_a_process_that_ends_is_said_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        subprocess_steps("public", stem="nowhere", batch_size=1, width=0.0625) as step,  # type: ignore[arg-type]
        pytest.raises(RuntimeError, match="the process of the public network ended with 1"),
    ):
        step()
    assert "nowhere" in capfd.readouterr().err


def test_an_unknown_strategy_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "conv", "--strategies", "fastest"]) == 2
    assert "model.strategy: 'fastest' is not known" in capsys.readouterr().err


def test_turns_alternate_and_one_round_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter(range(100))
    ways = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    seconds = interleave(ways, pairs=3, clock=lambda: float(next(ticks)))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}
    calls.clear()
    seconds = interleave(ways, pairs=2, clock=lambda: float(next(ticks)), repeat=2)
    assert "".join(calls) == "aabb" + "aabb" + "bbaa"
    assert seconds == {"a": [0.5] * 2, "b": [0.5] * 2}


def test_a_ratio_is_the_median_over_pairs() -> None:
    ratio = Ratio.of([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 2.0, 4.0)
    assert str(ratio) == "3.00 (2.00–4.00)"


def test_the_limit_on_paper() -> None:
    """4x4 pixels, 4 kernels: 20 + 20 + 24 multiply-adds a weight instead of 48."""
    assert limit(Shape(64, 4, 512, 512, (3, 3), (4, 4), SAME)) == pytest.approx(64 / 48)
    assert limit(Shape(64, 4, 512, 512, (3, 3), (1, 1), SAME)) == 4.0  # one pixel: mix outputs


def test_the_reference_is_dynamic_convolution() -> None:
    torch.manual_seed(0)
    layer = ReferenceDynamicConv2d(6, 8, 3, 2, 1).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(3, 6, 9, 9, dtype=torch.float64)
    attention = torch.softmax(layer.attention(x) / 30.0, 1)
    torch.testing.assert_close(layer(x), dynamic_conv2d(x, attention, layer.weight, None, (2, 2), (1, 1)))


@pytest.mark.long
def test_memory_of_a_step_is_bounded() -> None:
    """At most 1.5 times the static network's, plus the extra weights with gradient and momentum."""
    options = {"stem": "cifar", "batch_size": 128, "width": 0.25}
    static, dynamic = (peak_memory(kind, **options) for kind in ("static", "dynamic"))  # type: ignore[arg-type]
    extra = (44_959_458 - 11_173_962) // 16 * 4 * 3
    assert dynamic < 1.5 * static + extra
