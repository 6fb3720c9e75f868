"""The optimizer: SGD with a parameter group per pair of learning-rate and weight-decay factors.

Kernels have their own factors because the loss depends on the mixed kernel W̃ = Σ_k π_k W_k. Let G be its gradient.
Kernel k has gradient π_k G, so an SGD step with learning rate η and decay λ moves W̃ by −η (Σ_k π_k² G + λ W̃). With
uniform softmax, Σ_k π_k² = 1/K: the mixed kernel learns at 1/K of a static kernel's rate. If the kernels' learning
rate is multiplied by 1/Σ_k π_k² and their decay by Σ_k π_k², the step is −η (G + λ W̃), as for a static kernel. SGD
with momentum is linear in the gradient, so this holds for any number of steps while the attention is uniform.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dydist.config import Config, OptimConfig
from dydist.models import DynamicConv2d, DynamicLinear
from dydist.models.attention import sum_of_squares

FACTOR = "lr_factor"
"""Key of a parameter group's factor on the learning rate."""


def kernel_factors(optim: OptimConfig, *, kind: str, kernels: int) -> tuple[float, float]:
    """Factors on the learning rate and on the weight decay of a dynamic layer's K kernels and K biases.

    `kind`: the attention, softmax or sigmoid. `auto` is 1/Σ_k π_k² for `optim.kernel_lr` and Σ_k π_k² for
    `optim.kernel_decay`, where π is the attention at zero logits: K and 1/K for softmax, 4/K and K/4 for sigmoid.
    """
    squares = sum_of_squares(kind, kernels)
    rate = 1.0 / squares if optim.kernel_lr == "auto" else optim.kernel_lr
    decay = squares if optim.kernel_decay == "auto" else optim.kernel_decay
    return rate, decay


def parameter_groups(config: Config, model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for `torch.optim.SGD`, each with its `weight_decay` and its `lr_factor`.

    Parameters with the same two values form one group. Groups are in the order of the network's parameters.
    """
    optim = config.optim
    factors: dict[int, tuple[float, float]] = {}
    for module in model.modules():
        if isinstance(module, (DynamicConv2d, DynamicLinear)):
            attention = module.attention
            kernels = kernel_factors(optim, kind=attention.kind, kernels=module.weight.shape[0])
            factors |= {id(parameter): kernels for parameter in module.parameters(recurse=False)}
            factors |= {id(parameter): (optim.attention_lr, 1.0) for parameter in attention.parameters()}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = factors.get(id(parameter), (1.0, 1.0))
        if not optim.decay_norm_and_bias and (parameter.ndim <= 1 or name.endswith("bias")):
            decay = 0.0
        new = {"params": [], "weight_decay": decay * optim.weight_decay, FACTOR: rate}
        groups.setdefault((rate, decay), new)["params"].append(parameter)
    return list(groups.values())


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.SGD:
    """SGD by the configuration. `set_learning_rate` sets the rate of each step."""
    optim = config.optim
    return torch.optim.SGD(
        parameter_groups(config, model),
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group: `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[FACTOR]
