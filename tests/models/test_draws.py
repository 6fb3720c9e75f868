"""Masks are functions of (seed, step, shard): drawn again alike, and alike in a pass of one shard or of several."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydist.data.torchvision_shim import import_torchvision
from dydist.models.draws import KeyedDraws
from helpers import networks

IMAGES, SHARDS = 3, 2


def stochastic_depth(x: Tensor) -> Tensor:
    import_torchvision()
    from torchvision.ops import stochastic_depth as drop

    return drop(x, 0.5, "row")  # type: ignore[no-any-return]


def drop_path(x: Tensor) -> Tensor:
    """As timm has it."""
    return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)


def attention(x: Tensor) -> Tensor:
    heads = x.flatten(2).unflatten(1, (2, -1))
    return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)


def multihead(*, batch_first: bool) -> Callable[[Tensor], Tensor]:
    layer = nn.MultiheadAttention(9, 3, dropout=0.5, batch_first=batch_first)

    def forward(x: Tensor) -> Tensor:
        tokens = x.flatten(2) if batch_first else x.flatten(2).transpose(0, 1)
        out: Tensor = layer(tokens, tokens, tokens)[0]
        return out if batch_first else out.transpose(0, 1)

    return forward


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "dropout2d": nn.Dropout2d(0.5),
    "alpha dropout": nn.AlphaDropout(0.5),
    "stochastic depth": stochastic_depth,
    "drop path": drop_path,
    "attention": attention,
    "multi-head attention": multihead(batch_first=True),
    "multi-head attention, tokens first": multihead(batch_first=False),
    "rand": lambda x: x * torch.rand(len(x), 1, 1, 1),
    "rand_like": lambda x: x * torch.rand_like(x),
    "uniform_": lambda x: x * torch.empty_like(x).uniform_(1, 2),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "a GPU's dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "windows": lambda x: F.dropout(x.flatten(0, 1), 0.5).view_as(x),
}


def images() -> Tensor:
    return torch.rand(IMAGES * SHARDS, 4, 3, 3, generator=torch.Generator().manual_seed(0)) + 1


@pytest.mark.parametrize("way", WAYS)
def test_one_pass_over_two_shards_drops_what_two_passes_drop(way: str) -> None:
    x, layer = images(), WAYS[way]
    with KeyedDraws(0, 7, (4, 5), len(x)):
        together = layer(x)
    apart = []
    for shard in range(SHARDS):
        with KeyedDraws(0, 7, (4 + shard,), IMAGES):
            apart.append(layer(x[shard::SHARDS]))
    torch.testing.assert_close(together, torch.stack(apart, 1).flatten(0, 1))
    with KeyedDraws(0, 8, (4, 5), len(x)):
        assert not torch.allclose(layer(x), together)


def drawn(seed: int = 0, step: int = 0, shard: int = 0) -> Tensor:
    with KeyedDraws(seed, step, (shard,), 64):
        return torch.stack([F.dropout(torch.ones(64, 8), 0.25) for _ in range(2)])


def test_a_draw_follows_from_seed_step_shard_and_its_number_alone() -> None:
    first = drawn()
    torch.manual_seed(99)
    assert torch.equal(drawn(), first)
    for other in (drawn(seed=1), drawn(step=1), drawn(shard=1)):
        assert not torch.equal(other, first)
    assert not torch.equal(first[0], first[1])
    assert abs((first > 0).float().mean().item() - 0.75) < 0.05
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_nothing_is_taken_from_torchs_generator_and_gradients_see_the_mask() -> None:
    before = torch.get_rng_state()
    x = torch.ones(4, 8, requires_grad=True)
    with KeyedDraws(0, 0, (0,), 4):
        out = F.dropout(x, 0.5)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_from_a_generator_of_ones_own_are_left_alone() -> None:
    expected = torch.rand(4, generator=torch.Generator().manual_seed(3))
    with KeyedDraws(0, 0, (0,), 4):
        assert torch.equal(torch.rand(4, generator=torch.Generator().manual_seed(3)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_uniform_number_of_few_digits_is_below_one(dtype: torch.dtype) -> None:
    with KeyedDraws(0, 0, [0], 1):
        found = [torch.rand(200_000, dtype=dtype), torch.empty(200_000, dtype=dtype).uniform_()]
    for one in found:
        assert one.max() < 1
        assert one.mean(dtype=torch.float32) == pytest.approx(0.5, abs=0.005)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own import
def test_masks_of_a_network_that_was_compiled_are_keyed() -> None:
    """torch runs it uncompiled below a dispatch mode; compiled code would draw by a generator of its own."""
    from torch._dynamo.utils import counters  # here: it takes seconds

    torch.compiler.reset()
    counters.clear()
    x = torch.randn(4, 3, 32, 32)
    for network in (torch.compile(networks.plain(10, (3, 32, 32))), networks.plain(10, (3, 32, 32))):
        if network.__class__ is networks.Plain:
            network.compile()
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            with KeyedDraws(0, 0, (0,), len(x)):
                outputs.append(network(x))
        assert torch.equal(*outputs)
        with KeyedDraws(0, 1, (0,), len(x)):
            assert not torch.equal(network(x), outputs[0])
    assert not counters["stats"]
