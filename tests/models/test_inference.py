"""Without gradients: one mixed kernel where it serves the whole batch, and nothing kept for a backward pass."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dydist.models import dy_resnet18
from dydist.models.strategies import NAMES, dynamic_conv2d
from helpers.convolutions import TYPICAL
from helpers.reference import loop


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("images", [1, 6])
def test_one_kernel_is_mixed_once(strategy: str, images: int) -> None:
    x, attention, weight, bias = (None if t is None else t.detach() for t in TYPICAL.tensors())
    assert x is not None
    assert attention is not None
    assert weight is not None
    same = attention[:1].expand(images, -1)
    with torch.no_grad(), Operators() as ran:
        out = dynamic_conv2d(x[:images], same, weight, bias, *TYPICAL.geometry, strategy=strategy)
    assert ran.names.count("aten.convolution.default") == 1
    assert not any(name.startswith("dydist.") for name in ran.names)
    torch.testing.assert_close(out, loop(x[:images], same, weight, bias, TYPICAL.geometry))


def test_different_attention_is_not_taken_for_the_same() -> None:
    x, attention, weight, bias = (None if t is None else t.detach() for t in TYPICAL.tensors())
    assert attention is not None
    attention[1:] = attention[:1]
    attention[3, 0] += 1e-3
    with torch.no_grad():
        out = dynamic_conv2d(x, attention, weight, bias, *TYPICAL.geometry)  # type: ignore[arg-type]
    torch.testing.assert_close(out, loop(x, attention, weight, bias, TYPICAL.geometry))  # type: ignore[arg-type]


def test_every_layer_of_the_network_takes_its_strategy() -> None:
    """The test that fails when a layer falls back to a slower strategy: the operators of one training step."""
    model = dy_resnet18(width=0.125)
    with Operators() as ran:
        model(torch.randn(4, 3, 32, 32)).sum().backward()
    counts = {
        name: ran.names.count(f"dydist.{name}.default") for name in ("blocked", "fused", "winograd", "taps")
    }
    assert counts == {"blocked": 4, "fused": 6, "winograd": 9, "taps": 0}
    backward = {name: ran.names.count(f"dydist.{name}_backward.default") for name in counts}
    assert backward == counts
    # All other convolutions: the stem's, forward and backward.
    assert ran.names.count("aten.convolution.default") == 1
    assert ran.names.count("aten.convolution_backward.default") == 1
