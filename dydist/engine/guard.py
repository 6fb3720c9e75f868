"""The guard: before a save, checks that all processes hold the same weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from dydist.engine.world import World
from dydist.errors import DivergedError

_ROW = 1024


def digest(tensor: Tensor) -> Tensor:
    """A 64-bit checksum of a tensor's bits, as an int64 scalar on its device.

    The sum of each row of 1,024 32-bit words, rows weighted by different odd numbers, modulo 2^64: a single flipped
    bit always changes it. It detects faults, not attacks. Reads the tensor once.
    """
    words = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if rest := -words.numel() % (4 * _ROW):
        words = torch.cat([words, words.new_zeros(rest)])
    rows = words.view(torch.int32).view(-1, _ROW).sum(dim=1, dtype=torch.int64)
    return (rows * (2 * torch.arange(rows.numel(), device=rows.device) + 1)).sum()


def check_agreement(state: Mapping[str, Tensor], step: int, world: World) -> None:
    """Compare `state` and `step` over all processes (a collective; one all-gather of 8 bytes per tensor).

    Raises DivergedError on every process, naming the ranks that differ from the majority and the first tensor.
    """
    if world.size == 1:
        return
    mine = [step, *torch.stack([digest(tensor) for tensor in state.values()]).tolist()]
    everyone = world.gather(mine)
    usual = Counter(map(tuple, everyone)).most_common(1)[0][0]
    odd = [rank for rank, values in enumerate(everyone) if tuple(values) != usual]
    if not odd:
        return
    if 2 * len(odd) == world.size:
        who = f"ranks {_names(odd)} and the other half of {world.size} hold different values"
    else:
        who = f"rank {_names(odd)} of {world.size} differs"
    position = next(i for i, (a, b) in enumerate(zip(everyone[odd[0]], usual, strict=True)) if a != b)
    what = "the step" if position == 0 else f"tensor {list(state)[position - 1]}"
    raise DivergedError(
        f"step {step}: processes no longer agree: {who}, first in {what}. Nothing was saved. "
        "Suspect the memory or the GPU of that rank; start the run again to resume from its newest checkpoint"
    )


def check_finite(state: Mapping[str, Tensor], step: int) -> None:
    """Raise DivergedError, which names the first tensor, if a weight or a momentum is infinite or NaN."""
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    norms = torch._foreach_norm(list(floats.values()), float("inf"))
    fine = torch.isfinite(torch.stack([norm.float() for norm in norms]))
    if not bool(fine.all()):
        name = next(name for name, good in zip(floats, fine.tolist(), strict=True) if not good)
        raise DivergedError(
            f"step {step}: {name} is no longer finite; the earlier checkpoints were not overwritten. "
            "Try a lower optim.lr, optim.warmup_epochs, train.clip_norm, or train.precision=fp32",
            unbounded=True,
        )


def _names(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
