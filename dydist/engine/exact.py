"""`parallel.reduce=exact`: one pass per shard, and a sum over shards that does not depend on the number of processes.

The flat vector of a shard is [gradient of every parameter, HEADER, batch statistics]. All parts are summed in the same
order, that of a fixed tree over the shards. Other modules make a shard's vector itself reproducible: data/order.py and
randomness.py (order and random draws), models/batchnorm.py (statistics of one shard), run/strategies.py (strategies by
shape alone), run/session.py (the same kernels as at the last start), engine/world.py (threads).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dydist.config import Config
from dydist.data.loader import StepBatch
from dydist.data.order import rank_shards
from dydist.engine.core import DATA_HASH, HEADER, SAVE, STOP, TorchEngine
from dydist.engine.protocol import Votes
from dydist.engine.tree import PartialSums, ReductionPlan
from dydist.engine.world import World


class ExactEngine(TorchEngine):
    """Computes the same bits on any number of processes."""

    def __init__(self, config: Config, model: nn.Module, world: World) -> None:
        super().__init__(config, model, world)
        self.plan = ReductionPlan.make(config.parallel.shards, world.size)
        self.mine = rank_shards(world.rank, world.size, config.parallel.shards)
        self._gradient_size = sum(parameter.numel() for parameter in self.parameters)
        small = len(HEADER) + self.statistics.flat.numel()
        self._chunk = -(-(self._gradient_size + small) // world.size)
        self._small = slice(self._gradient_size, self._gradient_size + small)
        self._pool: list[Tensor] = []
        self._views: dict[int, list[Tensor]] = {}

    @property
    def _averaged_over(self) -> int:
        return 1  # gradients are summed

    def _reduce_gradients(self, batch: StepBatch, votes: Votes) -> Callable[[], Tensor]:
        groups = {group.shards[0]: group for group in batch.groups}
        sums: PartialSums[Tensor] = PartialSums(self.plan.shards, self.mine.start, self.mine.stop, self._add)
        shard = self.mine.start
        while shard < self.mine.stop:
            # siblings share a buffer: backward adds the right one's gradient to the left one's
            width = 2 if shard % 2 == 0 and shard + 1 in self.mine else 1
            flat = self._fresh()
            self._point_gradients_at(flat)
            for one in range(shard, shard + width):
                small = flat[self._small]
                if one == self.mine.start:
                    small[STOP] += votes.stop
                    small[SAVE] += votes.save
                if (group := groups.get(one)) is not None:  # in a small last batch, shards may be empty
                    self.statistics.zero()
                    small[:2] += self._backward(
                        self.model, group, step=batch.step, count=batch.count, factor=1
                    )
                    small[DATA_HASH] += group.data_hash
                    small[len(HEADER) :] += self.statistics.flat
            sums.push(flat, width)
            shard += width
        total = self._across_processes(sums.results())
        self._point_gradients_at(total)
        return lambda: total[self._small]

    def _across_processes(self, parts: list[Tensor]) -> Tensor:
        """The root of the tree, on every process. `parts`: the values of this process's subtrees. Collective."""
        if self.world.size == 1:
            (root,) = parts
            self._recycle(root)
            return root
        chunk, size = self._chunk, self.world.size
        send = parts[0] if len(parts) == 1 else torch.stack([p.view(size, chunk) for p in parts], 1).view(-1)
        counts = [len(nodes) for nodes in self.plan.held]
        received = torch.empty(sum(counts) * chunk, device=self.device)
        dist.all_to_all_single(
            received, send, [count * chunk for count in counts], [len(parts) * chunk] * size
        )
        mine = self.plan.combine(list(received.view(-1, chunk)), torch.Tensor.add_)
        root = parts[0]  # sent, so it may be overwritten
        all_gather(root, mine)
        for part in parts:
            self._recycle(part)
        return root

    def _add(self, left: Tensor, right: Tensor) -> Tensor:
        left.add_(right)
        self._recycle(right)
        return left

    def _fresh(self) -> Tensor:
        if self._pool:
            return self._pool.pop().zero_()
        return torch.zeros(self._chunk * self.world.size, device=self.device)

    def _recycle(self, flat: Tensor) -> None:
        """Allow the next step to reuse a buffer: the optimizer has read it by then."""
        self._pool.append(flat)

    def _point_gradients_at(self, flat: Tensor) -> None:
        views = self._views.get(flat.data_ptr())
        if views is None:
            pieces = flat[: self._gradient_size].split([p.numel() for p in self.parameters])
            views = [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
            self._views[flat.data_ptr()] = views
        for parameter, view in zip(self.parameters, views, strict=True):
            parameter.grad = view


all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
