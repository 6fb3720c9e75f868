"""A 2-d convolution that mixes its kernel for each image."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from dydist.config import ModelConfig
from dydist.errors import UserError
from dydist.models.attention import Attention, AttentionKind, AttentionNorm
from dydist.models.initialization import fan_out, reset_attention_, reset_kernels_
from dydist.models.strategies import check_strategy, dynamic_conv2d
from dydist.models.strategies.problem import Pair


class DynamicOptions(TypedDict, total=False):
    """Keyword arguments of `DynamicConv2d` that all layers of a network share."""

    kernels: int
    reduction: float
    strategy: str
    attention: AttentionKind
    attention_norm: AttentionNorm
    attention_min_hidden: int
    channel_attention: bool


def dynamic_options(config: ModelConfig) -> DynamicOptions:
    """The options that `config` gives."""
    return DynamicOptions(
        kernels=config.kernels,
        reduction=config.reduction,
        strategy=config.strategy,
        attention=config.attention,
        attention_norm=config.attention_norm,
        attention_min_hidden=config.attention_min_hidden,
        channel_attention=config.channel_attention,
    )


class DynamicConv2d(nn.Module):
    """A drop-in `nn.Conv2d` with K kernels, mixed per image by attention (Chen et al., arXiv:1912.03458).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernels.
        stride: As in `nn.Conv2d`.
        padding: Pixels of zeros on each side.
        dilation: As in `nn.Conv2d`.
        groups: As in `nn.Conv2d`.
        bias: Whether to learn K biases, mixed by the same attention as the kernels.
        kernels: K, the number of kernels.
        reduction: Width of the attention's hidden layer as a share of `in_channels`.
        strategy: The implementation (docs/performance.md); all give the same result up to rounding.
        attention: "softmax", "sigmoid" or "l1" (`Attention`).
        attention_norm: "none", or "batch" for batch norm in the attention (`Attention`).
        attention_min_hidden: Lower limit of the width of the attention's hidden layer.
        channel_attention: Whether to scale each image's input channels and output channels too, as in ODConv
            (arXiv:2209.07947, section 3.2; without its attention over positions). A depthwise convolution has no
            scale of the output, which would repeat that of the input.
        spread: None: independent kernels. Else the kernels start as one kernel plus perturbations of `spread` times
            its root mean square, which cancel while the attention is uniform.

    Its parameters are `weight` (K, out, in/groups, kh, kw), `bias` (K, out) or None, and those of `attention`.

    Raises:
        UserError: sizes are inconsistent, or another value is not allowed.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        kernels: int = 4,
        reduction: float = 0.25,
        strategy: str = "auto",
        attention: AttentionKind = "softmax",
        attention_norm: AttentionNorm = "none",
        attention_min_hidden: int = 1,
        channel_attention: bool = False,
        spread: float | None = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise UserError(
                f"groups: {groups} does not divide in_channels={in_channels} and out_channels="
                f"{out_channels}; use a common divisor of both"
            )
        self.in_channels, self.out_channels, self.groups, self.kernels = (
            in_channels,
            out_channels,
            groups,
            kernels,
        )
        self.kernel_size: Pair = _pair(kernel_size)
        self.stride: Pair = _pair(stride)
        self.padding: Pair = _pair(padding)
        self.dilation: Pair = _pair(dilation)
        self.strategy = check_strategy(strategy)
        self.channel_attention, self.spread = channel_attention, spread
        depthwise = groups == in_channels == out_channels
        self.attention = Attention(
            in_channels,
            kernels,
            reduction=reduction,
            kind=attention,
            norm=attention_norm,
            min_hidden=attention_min_hidden,
            scales=(in_channels, 0 if depthwise else out_channels) if channel_attention else (0, 0),
        )
        self.weight = nn.Parameter(
            torch.empty(kernels, out_channels, in_channels // groups, *self.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(kernels, out_channels)) if bias else None)
        self.reset_parameters()

    @property
    def temperature(self) -> Tensor:
        """The attention's temperature, a scalar tensor."""
        return self.attention.temperature

    def reset_parameters(self) -> None:
        """Draw the parameters from torch's default generator (docs/models.md, "Initial values")."""
        reset_attention_(self.attention)
        fan = fan_out(self.weight.shape, self.groups)
        reset_kernels_(self.weight, fan=fan, kind=self.attention.kind, spread=self.spread)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in, H, W] → [N, out, H', W']."""
        pooled = _pool(x)
        if not self.channel_attention:
            return self._convolve(x, self.attention(pooled))
        hidden = self.attention.hidden(pooled)
        inputs, outputs = self.attention.scales(hidden)
        out = self._convolve(_scaled(x, inputs), self.attention(pooled, hidden))
        return _scaled(out, outputs)

    def _convolve(self, x: Tensor, attention: Tensor) -> Tensor:
        return dynamic_conv2d(
            x,
            attention,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.strategy,
        )

    def extra_repr(self) -> str:
        optional = {"padding": (0, 0), "dilation": (1, 1), "groups": 1}
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}"]
        parts += [f"stride={self.stride}"]
        parts += [f"{n}={getattr(self, n)}" for n, usual in optional.items() if getattr(self, n) != usual]
        parts += [f"bias={self.bias is not None}", f"kernels={self.kernels}", f"strategy={self.strategy}"]
        return ", ".join(parts)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """Images [N, C, H, W] times their channels' `scale` [N, C], if there is one."""
    return x if scale is None else x * scale[:, :, None, None].to(x.dtype)


def _pool(x: Tensor) -> Tensor:
    """Mean over all positions, [N, C], with the same bits as `x.mean((2, 3))`. Avoids a full-size gradient tensor for
    the mean. In half precision the sum may overflow, so `mean` is used.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.mean((2, 3))
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])
