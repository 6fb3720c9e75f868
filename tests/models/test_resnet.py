"""ResNet-18: parameter counts, stems, the static twin against torchvision's, dropout, batch sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dydist.config import ModelConfig
from dydist.data.torchvision_shim import import_torchvision
from dydist.errors import UserError
from dydist.models import DynamicConv2d, build_model, dy_resnet18, static_resnet18
from dydist.models.resnet import ResNet18


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "classes", "parameters"),
    [
        (ModelConfig(), 10, 44_959_458),
        (ModelConfig(), 100, 45_005_628),
        (ModelConfig(stem="imagenet"), 10, 44_967_138),
        (ModelConfig(kind="static"), 10, 11_173_962),
    ],
)
def test_known_parameter_counts(config: ModelConfig, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(build_model(config, classes)) == parameters


def test_dynamic_everywhere_but_the_stem() -> None:
    model = dy_resnet18(width=0.125)
    assert sum(isinstance(part, DynamicConv2d) for part in model.modules()) == 19
    assert [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)] == ["conv1"]


@pytest.mark.parametrize(("stem", "side"), [("cifar", 32), ("strided", 16), ("imagenet", 8)])
def test_stems(stem: str, side: int) -> None:
    model = dy_resnet18(stem=stem, width=0.125)  # type: ignore[arg-type]
    seen: list[torch.Size] = []
    model.layer1.register_forward_hook(lambda _module, _inputs, out: seen.append(out.shape))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 8, side, side)]


def test_an_unknown_stem_is_named() -> None:
    with pytest.raises(UserError, match=r"model.stem: 'big'.*cifar, strided or imagenet"):
        dy_resnet18(stem="big")  # type: ignore[arg-type]


def test_the_static_twin_is_torchvisions_resnet18() -> None:
    torchvision = import_torchvision()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    ours = static_resnet18(7, stem="imagenet", dropout=0.0).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_width_scales_every_channel_count() -> None:
    model = dy_resnet18(width=0.25)
    assert model.features == 128
    assert model.fc.in_features == 128
    assert [getattr(model, f"layer{i}")[1].bn2.num_features for i in range(1, 5)] == [16, 32, 64, 128]


def test_any_batch_size_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    model = dy_resnet18(width=0.125).eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        together = model(images)
        for size in (1, 2, 3):
            parts = torch.cat([model(part) for part in images.split(size)])
            torch.testing.assert_close(parts, together, atol=1e-5, rtol=1e-5)


def test_the_dropout_mask_is_multiplied_onto_the_pooled_features() -> None:
    torch.manual_seed(0)
    model = dy_resnet18(width=0.125, dropout=0.5)
    images = torch.randn(4, 3, 32, 32)
    nothing = model(images, torch.zeros(4, model.features))
    torch.testing.assert_close(nothing, model.fc.bias.expand(4, -1))
    everything = model(images, torch.ones(4, model.features))
    torch.testing.assert_close(everything, _without_dropout(model, images))
    torch.manual_seed(1)
    first = model(images)
    torch.manual_seed(2)
    assert not torch.equal(first, model(images))
    model.eval()
    assert torch.equal(model(images), model(images, torch.zeros(4, model.features)))


def _without_dropout(model: ResNet18, images: torch.Tensor) -> torch.Tensor:
    rate, model.dropout = model.dropout, 0.0
    logits = model(images)
    model.dropout = rate
    return logits


def test_the_seed_decides_the_weights() -> None:
    def make(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model(ModelConfig(width=0.125), 10).parameters()])

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


def test_signal_keeps_its_size_through_the_network_at_the_start() -> None:
    """What He initialisation of the mixed kernel is for: dynamic and static start out alike."""
    images = torch.randn(16, 3, 32, 32)
    sizes = []
    for kind in ("dynamic", "static"):
        torch.manual_seed(0)
        model = build_model(ModelConfig(kind=kind, width=0.25), 10)  # type: ignore[arg-type]
        seen: list[float] = []
        for stage in (model.layer1, model.layer4):
            stage[1].conv2.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.std().item()))
        model(images)
        sizes.append(seen)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)


def test_every_parameter_gets_a_gradient() -> None:
    model = dy_resnet18(width=0.125, bias=True)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
