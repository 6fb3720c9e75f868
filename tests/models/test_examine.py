"""What of somebody's network breaks the promise is found, and told with its module; nothing is changed by looking."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dydist.errors import UserError
from dydist.models.batchnorm import batch_norm_by_shard
from dydist.models.examine import Examined, examine
from helpers.networks import plain, suspect


def look(network: nn.Module) -> Examined:
    return examine(batch_norm_by_shard(network), 10, (3, 32, 32), "model.factory: it")


def test_a_network_that_keeps_the_promise() -> None:
    network = plain(10, (3, 32, 32)).eval()
    network.bn1.train()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert look(network) == Examined(draws=True, unkeyed=(), changing=(), unused=())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert (network.training, network.bn1.training, network.bn2.training) == (False, True, False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Noise", "module 0.body.middle (Noise) draws by torch's randn_like"),
        ("NumpyNoise", "module 0.body.middle (NumpyNoise) draws by numpy.random"),
        ("Checkpointed", "draws its masks again in the backward pass"),
    ],
)
def test_draws_that_cannot_be_keyed_are_named(kind: str, words: str) -> None:
    (found,) = look(suspect(10, kind=kind)).unkeyed
    assert words in found


def test_a_buffer_that_changes_is_named() -> None:
    (found,) = look(suspect(10, kind="Moving")).changing
    assert found == "module 0.body.middle (Moving) changes its buffer mean in a forward pass"


def test_a_network_without_draws_needs_no_keys() -> None:
    network = suspect(10, kind="Counting")
    network.append(nn.Identity())
    network[-1].unused = nn.Linear(2, 2)
    assert look(network) == Examined(False, (), (), ("4.unused.weight", "4.unused.bias"))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 7)),
            "gives torch.float32 of 2×7 for 2 images; it must give",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 10)),
            "cannot take images of 2×3×32×32: RuntimeError: mat1",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), Pair()), "gives a tuple in training"),
    ],
)
def test_what_is_no_classifier_of_these_images(network: nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=r"^model\.factory: it ") as told:
        look(network)
    assert words in str(told.value)


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


class AlwaysDrops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)


class Registers(nn.Module):
    """Registers a buffer in its first pass."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.persistent = persistent
        self.register_buffer("none", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(()), persistent=self.persistent)
        return x * self.late


class Refused(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:
        raise ValueError("no gradient here")


class RefusesBackward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Refused.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def around(middle: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 4), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


def test_attention_without_dropout_does_not_draw() -> None:
    assert look(around(Attention())) == Examined(False, (), (), ())


def test_a_dropout_in_evaluation_is_told() -> None:
    found = look(around(AlwaysDrops()))
    assert found.draws
    (text,) = found.unkeyed
    assert text.startswith("module 1 (AlwaysDrops) draws by torch's ")
    assert text.endswith(" in evaluation")


def test_batch_norm_without_running_statistics_is_told() -> None:
    (text,) = look(around(nn.BatchNorm2d(4, track_running_stats=False))).by_batch
    assert text.startswith("module 1 (ShardBatchNorm2d) keeps no running statistics")


def test_a_buffer_registered_in_a_pass() -> None:
    network = around(Registers(persistent=False))
    assert look(network) == Examined(False, (), (), ())
    assert not hasattr(network[1], "late")  # type: ignore[index]
    with pytest.raises(UserError, match=r"gets or loses 1.late in a forward pass.*__init__"):
        look(around(Registers(persistent=True)))


def test_an_error_of_a_backward_pass_is_told() -> None:
    with pytest.raises(UserError, match="cannot train on images of 2×3×32×32: ValueError: no gradient here"):
        look(around(RefusesBackward()))
