"""Small states with every kind of tensor, and what it means that two are the same."""

from __future__ import annotations

import torch

from dydist.checkpoint import TrainingState


def state_at(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    weights = {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.num_batches_tracked": torch.tensor(step),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "empty": torch.empty(0),
        "flag": torch.tensor([True, False]),
    }
    return TrainingState(
        step=step,
        model=weights,
        optimizer={"momentum.conv.weight": torch.randn(4, 3, 3, 3, generator=generator)},
        ema={"conv.weight": torch.randn(4, 3, 3, 3, generator=generator)},
        extra={"seed": 7, "config": {"run": {"name": "test"}}},
    )


def assert_same(found: TrainingState | None, expected: TrainingState) -> None:
    assert found is not None
    assert found.step == expected.step
    for kind, tensors in expected.kinds().items():
        there = found.kinds()[kind]
        assert there.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert there[name].dtype == tensor.dtype
            assert torch.equal(there[name], tensor), f"{kind} {name}"
    assert {**found.extra, **expected.extra} == dict(found.extra)
