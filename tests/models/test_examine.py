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
