"""Batch norm by shard: interleaved shards in one pass equal separate passes; plain by default."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dydist.models import attach_statistics, dy_resnet18
from dydist.models.batchnorm import ShardBatchNorm2d, batch_norm_by_shard


def layer(channels: int = 5, **options: object) -> ShardBatchNorm2d:
    torch.manual_seed(0)
    made = ShardBatchNorm2d(channels, **options)  # type: ignore[arg-type]
    if made.affine:
        nn.init.uniform_(made.weight)
        nn.init.uniform_(made.bias)
    return made


def interleave(shards: list[torch.Tensor]) -> torch.Tensor:
    """Row i·s + j is image i of shard j."""
    return torch.stack(shards, 1).flatten(0, 1)


def test_is_batchnorm2d_by_default() -> None:
    ours, theirs = layer(), nn.BatchNorm2d(5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 5, 3, 3)
    for _ in range(2):
        assert torch.equal(ours(x), theirs(x))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_one_pass_equals_separate_passes(
    shards: int, affine: bool, memory_format: torch.memory_format
) -> None:
    parts = [torch.randn(3, 5, 4, 2) for _ in range(shards)]
    weights = [torch.randn(3, 5, 4, 2) for _ in range(shards)]

    together = layer(affine=affine)
    statistics = attach_statistics(together, "cpu")
    statistics.set_shards(shards)
    x = interleave(parts).contiguous(memory_format=memory_format).requires_grad_()
    out = together(x)
    (out * interleave(weights)).sum().backward()

    apart = layer(affine=affine)
    separate = attach_statistics(apart, "cpu")
    inputs = [part.clone().requires_grad_() for part in parts]
    outputs = [apart(part) for part in inputs]
    sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)).backward()  # type: ignore[union-attr]

    torch.testing.assert_close(out, interleave(outputs))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, interleave([part.grad for part in inputs if part.grad is not None]))
    torch.testing.assert_close(statistics.flat, separate.flat)
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert out.is_contiguous(memory_format=memory_format)


def test_update_running_is_batchnorms_own_update_averaged() -> None:
    model = nn.Sequential(layer(5, momentum=0.3), layer(5, momentum=0.1), layer(5, track_running_stats=False))
    plain = [nn.BatchNorm2d(5, momentum=0.3), nn.BatchNorm2d(5, momentum=0.1)]
    parts = [torch.randn(3, 5, 4, 4) for _ in range(2)]
    statistics = attach_statistics(model, "cpu")
    statistics.set_shards(2)
    for module in model:
        module(interleave(parts))
    before = [module.running_mean.clone() for module in model[:2]]  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, torch.zeros(5)) for value in before)
    statistics.update_running(statistics.flat / 2)
    for module, reference in zip(model, plain, strict=False):
        means, variances = [], []
        for part in parts:
            reference.reset_running_stats()
            reference(part)
            assert reference.running_mean is not None
            assert reference.running_var is not None
            means.append(reference.running_mean.clone())
            variances.append(reference.running_var.clone())
        torch.testing.assert_close(module.running_mean, sum(means) / 2)
        torch.testing.assert_close(module.running_var, sum(variances) / 2)
        assert int(module.num_batches_tracked) == 1  # type: ignore[arg-type]
    statistics.zero()
    assert statistics.flat.abs().max() == 0


def test_momentum_none_keeps_the_mean_of_all_batches() -> None:
    module = layer(5, momentum=None)
    statistics = attach_statistics(module, "cpu")
    plain = nn.BatchNorm2d(5, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 5, 2, 2)
        statistics.zero()
        module(x)
        statistics.update_running(statistics.flat)
        plain(x)
    torch.testing.assert_close(module.running_var, plain.running_var)


@pytest.mark.parametrize("shards", [1, 3])
def test_one_value_a_channel_gives_the_bias_and_keeps_running_statistics(shards: int) -> None:
    module = layer()
    assert module.running_mean is not None
    module.running_mean.uniform_()
    before = module.running_mean.clone()
    statistics = attach_statistics(module, "cpu")
    statistics.set_shards(shards)
    x = torch.randn(shards, 5, 1, 1, requires_grad=True)
    out = module(x)
    torch.testing.assert_close(out, module.bias[None, :, None, None].expand(shards, 5, 1, 1))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() == 0
    torch.testing.assert_close(module.bias.grad, torch.full((5,), float(shards)))
    torch.testing.assert_close(module.weight.grad, torch.zeros(5))
    statistics.update_running(statistics.flat / shards)
    torch.testing.assert_close(module.running_mean, before)


def test_evaluation_uses_running_statistics_and_detach_gives_back_batchnorm2d() -> None:
    module = layer()
    statistics = attach_statistics(module, "cpu")
    x = torch.randn(4, 5, 3, 3)
    module.eval()
    torch.testing.assert_close(module(x), nn.functional.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias
    ))  # fmt: skip
    assert statistics.flat.abs().max() == 0
    statistics.detach()
    module.train()(x)
    assert int(module.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_under_autocast_statistics_stay_float32() -> None:
    module = layer()
    statistics = attach_statistics(module, "cpu")
    statistics.set_shards(2)
    x = torch.randn(4, 5, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x.bfloat16())
    assert out.dtype == torch.bfloat16
    expected = torch.stack([part.mean((0, 2, 3)) for part in (x[::2], x[1::2])]).sum(0)
    torch.testing.assert_close(statistics.flat[:5], expected, atol=0.02, rtol=0.02)


def test_a_whole_network_by_shard() -> None:
    """Loss gradients and statistics of interleaved shards equal the sums over separate passes."""
    torch.manual_seed(0)
    model = dy_resnet18(width=0.125, dropout=0.0).double()
    statistics = attach_statistics(model, "cpu")
    parts = [torch.randn(3, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    statistics.set_shards(2)
    model(interleave(parts)).square().sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    sums = statistics.flat.clone()
    model.zero_grad()
    statistics.zero()
    statistics.set_shards(1)
    for part in parts:
        model(part).square().sum().backward()
    torch.testing.assert_close(statistics.flat, sums)
    for ours, theirs in zip([p.grad for p in model.parameters()], together, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_state_is_batchnorm2ds() -> None:
    module = layer()
    attach_statistics(module, "cpu")
    assert list(module.state_dict()) == list(nn.BatchNorm2d(5).state_dict())
    assert list(dict(module.named_buffers())) == list(dict(nn.BatchNorm2d(5).named_buffers()))


class Uneven(nn.Module):
    """A batch norm that is frozen, one that is skipped, one that is called twice, and one that is called once."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.skipped, self.twice, self.once = (nn.BatchNorm2d(5) for _ in range(4))
        for layer in (self.frozen, self.skipped):
            nn.init.constant_(layer.running_mean, 0.3)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> Uneven:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.once(x) + self.twice(x) + self.twice(x) + self.frozen(x)  # type: ignore[no-any-return]


def test_a_layer_is_averaged_over_its_own_calls() -> None:
    model = Uneven()
    batch_norm_by_shard(model).train()
    statistics = attach_statistics(model, "cpu")
    statistics.set_shards(2)
    for _ in range(3):
        statistics.zero()
        model(torch.randn(6, 5, 4, 4) + 1)
        statistics.update_running(statistics.flat / 2)
    for layer in (model.frozen, model.skipped):
        assert torch.equal(layer.running_mean, torch.full((5,), 0.3))  # type: ignore[arg-type]
        assert torch.equal(layer.running_var, torch.ones(5))  # type: ignore[arg-type]
        assert layer.num_batches_tracked == 0
    assert torch.equal(model.twice.running_mean, model.once.running_mean)  # type: ignore[arg-type]
    assert torch.equal(model.twice.running_var, model.once.running_var)  # type: ignore[arg-type]
    assert model.once.num_batches_tracked == 3


def test_counting_changes_no_bit_of_a_layer_that_is_called_once() -> None:
    results = []
    for counts in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(layer(5), layer(3, momentum=None, affine=False), layer(7))
        for module in model:
            module.counts = counts
        statistics = attach_statistics(model, "cpu")
        statistics.set_shards(3)
        for _ in range(4):
            statistics.zero()
            for module in model:
                module(torch.randn(6, module.num_features, 4, 4))  # type: ignore[call-overload]
            statistics.update_running(statistics.flat / 3)
        results.append(model.state_dict())
    assert all(torch.equal(value, results[0][name]) for name, value in results[1].items())
