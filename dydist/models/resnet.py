"""ResNet-18 (He et al., arXiv:1512.03385, table 1), static, or with all convolutions but the stem's dynamic.
Module names are torchvision's, so the static network's state_dict is compatible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dydist.config import ModelConfig
from dydist.config.rules import no_dynamic_layer
from dydist.errors import UserError
from dydist.models.batchnorm import ShardBatchNorm2d
from dydist.models.dynamic_conv import DynamicConv2d, DynamicOptions, dynamic_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

Stem = Literal["cifar", "strided", "imagenet"]
Convolution = Callable[[str, int, int, int, int, int], nn.Module]
"""Makes a convolution from (name, in_channels, out_channels, kernel_size, stride, padding)."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if shapes change."""

    def __init__(
        self, name: str, in_channels: int, channels: int, stride: int, convolution: Convolution
    ) -> None:
        super().__init__()
        self.conv1 = convolution(f"{name}.conv1", in_channels, channels, 3, stride, 1)
        self.bn1 = ShardBatchNorm2d(channels)
        self.conv2 = convolution(f"{name}.conv2", channels, channels, 3, 1, 1)
        self.bn2 = ShardBatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            shortcut = convolution(f"{name}.downsample.0", in_channels, channels, 1, stride, 0)
            self.downsample = nn.Sequential(shortcut, ShardBatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, channels, ⌈H/stride⌉, ⌈W/stride⌉]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut, inplace=True)


class ResNet18(nn.Module):
    """Eight basic blocks in four stages of 64, 128, 256 and 512 channels (times `width`), then a classifier.

    `features` is the width of the pooled features, the classifier's input.
    """

    def __init__(
        self, num_classes: int, *, stem: Stem, width: float, dropout: float, convolution: Convolution
    ) -> None:
        super().__init__()
        widths = [max(1, round(channels * width)) for channels in (64, 128, 256, 512)]
        self.features = widths[-1]
        self.dropout = dropout
        self.stem = stem
        self.maxpool: nn.Module | None
        self.conv1, self.maxpool = _stem(stem, widths[0])
        self.bn1 = ShardBatchNorm2d(widths[0])
        before = widths[0]
        stages: list[nn.Module] = []
        for number, channels in enumerate(widths, start=1):
            first = BasicBlock(f"layer{number}.0", before, channels, 2 if stages else 1, convolution)
            second = BasicBlock(f"layer{number}.1", channels, channels, 1, convolution)
            stages.append(nn.Sequential(first, second))
            before = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(self.features, num_classes)

    def forward(self, images: Tensor, dropout_mask: Tensor | None = None) -> Tensor:
        """Normalised images [N, 3, H, W] → logits [N, classes].

        In training with dropout, the pooled features are multiplied by `dropout_mask` [N, features] (zero where
        dropped, else 1/(1-p)); without a mask, torch's dropout draws it.
        """
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        pooled = x.mean((2, 3))
        if self.training and self.dropout > 0:
            pooled = F.dropout(pooled, self.dropout) if dropout_mask is None else pooled * dropout_mask
        logits: Tensor = self.fc(pooled)
        return logits


def dy_resnet18(
    num_classes: int = 10,
    *,
    stem: Stem = "cifar",
    width: float = 1.0,
    dropout: float = 0.1,
    bias: bool = False,
    spread: float | None = None,
    dynamic: str = "*",
    **options: Unpack[DynamicOptions],
) -> ResNet18:
    """ResNet-18 with 19 dynamic convolutions: all but the stem (Chen et al., arXiv:1912.03458, section 5).

    `stem`: cifar (3x3 stride 1), strided (3x3 stride 2) or imagenet (7x7 stride 2 and a 3x3 max-pool).
    `width` multiplies every channel count; `dropout` is applied before the classifier; `dynamic` is a pattern as in a
    shell (`fnmatch`): convolutions with other names are ordinary ones. The other arguments are those of
    `DynamicConv2d`: bias, spread, kernels, reduction, strategy, attention, attention_norm, attention_min_hidden and
    channel_attention. Takes 3-channel images of any size. Raises UserError for values that are not allowed.
    """
    names: list[str] = []

    def convolution(
        name: str, inputs: int, outputs: int, kernel: int, stride: int, padding: int
    ) -> nn.Module:
        names.append(name)
        if not fnmatchcase(name, dynamic):
            return _ordinary(name, inputs, outputs, kernel, stride, padding)
        return DynamicConv2d(inputs, outputs, kernel, stride, padding, bias=bias, spread=spread, **options)

    network = ResNet18(num_classes, stem=stem, width=width, dropout=dropout, convolution=convolution)
    if problem := no_dynamic_layer(dynamic, names):
        raise UserError(problem)
    return network


def static_resnet18(
    num_classes: int = 10, *, stem: Stem = "cifar", width: float = 1.0, dropout: float = 0.1
) -> ResNet18:
    """The same network with ordinary convolutions; with the imagenet stem, torchvision's `resnet18`."""
    return ResNet18(num_classes, stem=stem, width=width, dropout=dropout, convolution=_ordinary)


def build_model(config: ModelConfig, num_classes: int, image_shape: Sequence[int] = (3, 32, 32)) -> nn.Module:
    """The network that `config` describes, its weights drawn from torch's default generator.

    `image_shape` [C, H, W] is for a network of the user's own: the ResNet takes 3-channel images of any size.
    """
    if config.factory is not None:
        from dydist.models.factory import build_network

        return build_network(config, num_classes, image_shape)
    if config.kind == "static":
        return static_resnet18(num_classes, stem=config.stem, width=config.width, dropout=config.dropout)
    return dy_resnet18(
        num_classes,
        stem=config.stem,
        width=config.width,
        dropout=config.dropout,
        bias=config.bias,
        spread=config.spread,
        dynamic=config.dynamic,
        **dynamic_options(config),
    )


def _ordinary(name: str, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _stem(stem: str, channels: int) -> tuple[nn.Module, nn.Module | None]:
    """The first convolution, and the pooling after it or None."""
    if stem == "cifar":
        return _ordinary("conv1", 3, channels, 3, 1, 1), None
    if stem == "strided":
        return _ordinary("conv1", 3, channels, 3, 2, 1), None
    if stem == "imagenet":
        return _ordinary("conv1", 3, channels, 7, 2, 3), nn.MaxPool2d(3, stride=2, padding=1)
    raise UserError(f"model.stem: {stem!r} is not known; use cifar, strided or imagenet")
