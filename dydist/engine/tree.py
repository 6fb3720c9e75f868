"""A fixed binary tree over the shards, and the plan by which processes that hold parts of it compute its root.

Floating-point addition is not associative, so a sum over shards is the same on any number of processes only if its
order is fixed. The tree fixes it: a node covers shards [low, high), splits at low + the largest power of two below
its length, and its value is left + right. For eight shards: ((0+1)+(2+3))+((4+5)+(6+7)). Nothing here touches
torch.distributed; `engine/exact.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dydist.data.order import rank_shards

T = TypeVar("T")
Node = tuple[int, int]
"""A subtree, named by the shards it covers: [low, high)."""


def split(low: int, high: int) -> int:
    """Where the node [low, high) is split; `high - low` is at least 2."""
    return low + (1 << (high - low - 1).bit_length() - 1)


def subtrees(low: int, high: int, shards: int) -> list[Node]:
    """The fewest nodes of the tree over `shards` shards that together cover [low, high), from left to right."""
    found: list[Node] = []

    def descend(left: int, right: int) -> None:
        if high <= left or right <= low:
            return
        if low <= left and right <= high:
            found.append((left, right))
            return
        middle = split(left, right)
        descend(left, middle)
        descend(middle, right)

    descend(0, shards)
    return found


class PartialSums(Generic[T]):
    """Sums values in the tree's order as they arrive, shard by shard from left to right.

    A node is summed as soon as both halves are known, so at most about log2(shards) sums are held. `add(a, b)`
    returns a + b and may reuse a.
    """

    def __init__(self, shards: int, low: int, high: int, add: Callable[[T, T], T]) -> None:
        self._add = add
        self._wanted = subtrees(low, high, shards)
        self._next = low
        self._held: list[tuple[Node, T]] = []

    def push(self, value: T, width: int = 1) -> None:
        """Add the value of the next node: one shard, or an aligned node of `width` shards already summed."""
        node = (self._next, self._next + width)
        self._next += width
        top = next(outer for outer in self._wanted if outer[0] <= node[0] < outer[1])
        while node != top and (parent := parent_of(node, top))[1] == node[1]:
            left, held = self._held.pop()
            assert left == (parent[0], node[0]), "shards must come from left to right"
            node, value = parent, self._add(held, value)
        self._held.append((node, value))

    def results(self) -> list[T]:
        """The values of the subtrees, from left to right, once every shard has been pushed."""
        assert [node for node, _ in self._held] == self._wanted, "a shard is missing"
        return [value for _, value in self._held]


def parent_of(node: Node, root: Node) -> Node:
    """The parent of `node` in the tree with root `root`."""
    low, high = root
    while True:
        middle = split(low, high)
        if node in ((low, middle), (middle, high)):
            return low, high
        low, high = (low, middle) if node[1] <= middle else (middle, high)


@dataclass(frozen=True)
class ReductionPlan:
    """How `world_size` processes compute the root: the subtrees that each holds, and the order of additions.

    Each process owns one of `world_size` equal chunks of the flat vector. It sends to each owner that owner's chunk
    of all its subtrees (reduce-scatter) and adds the chunks that it receives with `combine`; an all-gather then
    collects the sums. With one subtree per process (world size a power of two that divides the shards), a process
    sends (world_size - 1) / world_size of the vector twice: as much as in a ring all-reduce.
    """

    shards: int
    held: tuple[tuple[Node, ...], ...]

    @classmethod
    def make(cls, shards: int, world_size: int) -> ReductionPlan:
        ranges = (rank_shards(rank, world_size, shards) for rank in range(world_size))
        return cls(shards, tuple(tuple(subtrees(r.start, r.stop, shards)) for r in ranges))

    @property
    def world_size(self) -> int:
        return len(self.held)

    def sent(self, rank: int) -> float:
        """The amount that `rank` sends in one reduction, in units of the vector's size."""
        others = (self.world_size - 1) / self.world_size
        return others * len(self.held[rank]) + others

    def combine(self, parts: Sequence[T], add: Callable[[T, T], T]) -> T:
        """The root's value, from the values of all subtrees in the order of `held` (by rank, then left to right)."""
        nodes = [node for owned in self.held for node in owned]
        values = dict(zip(nodes, parts, strict=True))

        def value(low: int, high: int) -> T:
            if (low, high) in values:
                return values[low, high]
            middle = split(low, high)
            return add(value(low, middle), value(middle, high))

        return value(0, self.shards)
