"""Both engines in one process: the same gradient, statistics and update, whatever the shape of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dydist.engine import Votes, World, start_world
from dydist.engine.core import TorchEngine
from dydist.engine.forward import shard_forward
from helpers.engines import batches, configure, make, run

VARIANTS = [
    {},
    {"data": {"mixup": 0.4, "cutout": 4}},
    {"data": {"cutmix": 1.0}},
    {"train": {"label_smoothing": 0.1, "clip_norm": 0.01}},
    {"optim": {"nesterov": True, "decay_norm_and_bias": False}},
    {"model": {"kind": "static"}},
    {"model": {"dropout": 0.0, "bias": True}},
    {"train": {"precision": "bf16"}},
]


@pytest.mark.parametrize("sections", VARIANTS, ids=[str(variant) for variant in VARIANTS])
def test_fast_and_exact_differ_by_rounding(sections: dict[str, dict[str, Any]], world: World) -> None:
    exact, exact_sums = run(configure(**sections), world)
    fast_sections = {**sections, "parallel": {"reduce": "fast"}}
    fast, fast_sums = run(configure(**fast_sections), world)
    close = 3e-2 if "precision" in str(sections) else 2e-4
    for mine, theirs in zip(exact_sums, fast_sums, strict=True):
        assert mine.data_hash == theirs.data_hash
        assert mine.loss == pytest.approx(theirs.loss, rel=close)
    assert exact.grad_norm() == pytest.approx(fast.grad_norm(), rel=20 * close)
    ours, others = exact.model_state(), fast.model_state()
    assert list(ours) == list(others)
    for name in ours:
        torch.testing.assert_close(
            ours[name], others[name], rtol=20 * close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("reduce", ["fast", "exact"])
def test_the_small_last_batch_is_trained_on_whole(reduce: str, world: World) -> None:
    """100 images in batches of 24 leave 4 for the fifth step of an epoch: one a shard; with 26 left, 7, 6, 7, 6."""
    for limit in (100, 98, 72 + 26 - 24):
        config = configure(data={"limit": limit, "drop_last": False}, parallel={"reduce": reduce})
        engine, dataset, order = make(config, world)
        last = order.steps_per_epoch - 1
        (batch,) = batches(config, dataset, order, last, last + 1)
        rest = limit - 24 * last
        assert batch.count == rest
        assert sum(len(group.labels) for group in batch.groups) == rest
        sums = engine.train_step(batch, lr=0.01, temperature=1.0, votes=Votes())()
        assert 0 < sums.loss < 10
        state = engine.model_state()
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_an_epoch_with_its_last_batch_is_the_same_in_both_ways(world: World) -> None:
    options = {"data": {"limit": 50, "drop_last": False}, "optim": {"lr": 0.001}}
    exact, _ = run(configure(**options), world, steps=3)
    fast, _ = run(configure(**options, parallel={"reduce": "fast"}), world, steps=3)
    others = fast.model_state()
    for name, tensor in exact.model_state().items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)


def test_votes_reach_the_sums(world: World) -> None:
    for reduce in ("fast", "exact"):
        config = configure(parallel={"reduce": reduce})
        engine, dataset, order = make(config, world)
        first, second = batches(config, dataset, order, 0, 2)
        sums = engine.train_step(first, lr=0.1, temperature=1.0, votes=Votes(stop=True))()
        assert (sums.stop, sums.save) == (True, False)
        sums = engine.train_step(second, lr=0.1, temperature=1.0, votes=Votes(save=True))()
        assert (sums.stop, sums.save) == (False, True)


@pytest.mark.parametrize("reduce", ["fast", "exact"])
def test_a_loaded_engine_goes_on_bit_for_bit(reduce: str, world: World) -> None:
    config = configure(parallel={"reduce": reduce}, train={"ema_decay": 0.9, "precision": "fp16"})
    whole, _ = run(config, world, steps=4)
    half, _ = run(config, world, steps=2)
    other, dataset, order = make(replace(config, seed=99), world)
    averaged = {name: tensor.clone() for name, tensor in (half.averaged_state() or {}).items()}
    other.load(half.model_state(), half.optimizer_state(), averaged, half.extra_state())
    assert isinstance(other, TorchEngine)
    other.forward = shard_forward(config, other.model)
    order = replace(order, seed=config.seed)
    for batch in batches(config, dataset, order, 2, 4):
        other.train_step(batch, lr=config.optim.lr, temperature=5.0, votes=Votes())()
    for mine, theirs in (
        (other.model_state(), whole.model_state()),
        (other.optimizer_state(), whole.optimizer_state()),
        (other.averaged_state() or {}, whole.averaged_state() or {}),
    ):
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in mine)
    assert other.extra_state() == whole.extra_state()


def test_an_average_follows_the_weights(world: World) -> None:
    engine, _ = run(configure(train={"ema_decay": 0.75}), world, steps=1)
    fresh, _, _ = make(configure(), world)
    start, now, averaged = fresh.model_state(), engine.model_state(), engine.averaged_state()
    assert averaged is not None
    for name in ("fc.weight", "bn1.running_mean"):
        torch.testing.assert_close(averaged[name], 0.75 * start[name] + 0.25 * now[name])
    assert int(averaged["bn1.num_batches_tracked"]) == 1


def test_clipping_bounds_the_update_and_reports_the_norm_before(world: World) -> None:
    free, _ = run(configure(), world, steps=1)
    clipped, _ = run(configure(train={"clip_norm": 0.001}), world, steps=1)
    assert free.grad_norm() > 0.01
    assert clipped.grad_norm() == free.grad_norm()
    assert isinstance(clipped, TorchEngine)
    now = torch.stack([p.grad.norm() for p in clipped.parameters if p.grad is not None]).norm()
    assert float(now) == pytest.approx(0.001, rel=1e-3)


def test_decay_spares_norms_and_biases_where_asked(world: World) -> None:
    engine, _, _ = make(configure(optim={"decay_norm_and_bias": False, "weight_decay": 0.1}), world)
    assert isinstance(engine, TorchEngine)
    decay = {
        id(parameter): group["weight_decay"]
        for group in engine.optimizer.param_groups
        for parameter in group["params"]
    }
    by_name = {name: decay[id(parameter)] for name, parameter in engine.model.named_parameters()}
    assert len(decay) == len(by_name)
    assert by_name["bn1.weight"] == by_name["bn1.bias"] == by_name["fc.bias"] == 0.0
    assert by_name["fc.weight"] == by_name["layer1.0.conv1.weight"] == 0.1


def test_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from dydist.errors import UserError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"parallel\.device: cuda is not there"):
        start_world(configure(parallel={"device": "cuda"}))


def test_dropout_is_drawn_for_each_shard_and_keeps_the_mean(world: World) -> None:
    config = configure(model={"dropout": 0.25, "width": 1.0}, parallel={"reduce": "fast"})
    _, dataset, order = make(config, world)
    (batch,) = batches(config, dataset, order, 0, 1)
    (group,) = batch.groups
    masks: list[Tensor] = []

    def network(images: Tensor, *, dropout_mask: Tensor) -> Tensor:
        masks.append(dropout_mask)
        return images

    network.features = 512  # type: ignore[attr-defined]
    forward = shard_forward(config, network)  # type: ignore[arg-type]
    for one, step in (
        (group, 0),
        (replace(group, shards=(2,), labels=group.labels[2::4], images=group.images[2::4]), 0),
        (group, 1),
    ):
        forward(network, one, step)  # type: ignore[arg-type]
    mask, alone, other = masks
    assert mask.shape == (24, 512)
    assert sorted(mask.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(mask[2::4], alone)
    assert not torch.equal(mask, other)


@pytest.mark.parametrize("reduce", ["fast", "exact"])
def test_an_overflow_at_the_very_first_step_of_fp16_leaves_no_trace(reduce: str, world: World) -> None:
    config = configure(parallel={"reduce": reduce}, train={"precision": "fp16"})
    engine, dataset, order = make(config, world)
    assert isinstance(engine, TorchEngine)
    before = {name: tensor.clone() for name, tensor in engine.model.named_parameters()}
    engine.scaler.load_state_dict({**engine.scaler.state_dict(), "scale": 1e38})
    (batch,) = batches(config, dataset, order, 0, 1)
    engine.train_step(batch, lr=0.1, temperature=1.0, votes=Votes())()
    assert all(before[name].equal(tensor) for name, tensor in engine.model.named_parameters())
    assert all(not tensor.any() for tensor in engine.optimizer_state().values())
