"""The first thing in which two recorded runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["start", "output", "gradient", "update"]
ORDER: tuple[Kind, ...] = ("start", "output", "gradient", "update")
"""What depends on what: outputs on the weights, gradients on outputs, the update on gradients."""


class Entry(NamedTuple):
    """One digest. `step` counts from 1; `start` is the state before a process's first step, which has the step before.

    `shard`: of an output or a gradient; -1 for the state.
    """

    step: int
    kind: Kind
    shard: int
    name: str
    digest: str


@dataclass(frozen=True)
class Record:
    """What one process recorded, in the order of the computation. `classes`: names of modules' classes by name."""

    entries: Sequence[Entry]
    classes: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Record:
        """Read what `save` wrote."""
        values = json.loads(file.read_text(encoding="utf-8"))
        return cls([Entry(*entry) for entry in values["entries"]], values["classes"])

    def save(self, file: Path) -> None:
        """Write as JSON."""
        values = {"classes": dict(self.classes), "entries": self.entries}
        file.write_text(json.dumps(values), encoding="utf-8")

    def sequences(self) -> Iterator[tuple[tuple[int, Kind, int], list[tuple[str, str]]]]:
        """The (name, digest) of each (step, kind, shard), in order."""
        found: dict[tuple[int, Kind, int], list[tuple[str, str]]] = {}
        for step, kind, shard, name, digest in self.entries:
            found.setdefault((step, kind, shard), []).append((name, digest))
        yield from found.items()


@dataclass(frozen=True)
class Difference:
    """Where two runs differ first: step (from 1), kind, shard or -1, and the name of a module, parameter or tensor."""

    step: int
    kind: Kind
    shard: int
    name: str
    owner: str
    """The module and its class, in words."""

    def __str__(self) -> str:
        at = f"at step {self.step}" + (f", shard {self.shard}" if self.shard >= 0 else "")
        if self.kind == "output":
            return f"first in the forward output of {self.owner} {at}"
        if self.kind == "gradient":
            return f"first in the gradient of {self.owner} (parameter {self.name}) {at}"
        if self.kind == "update":
            return f"first in the update of {self.owner} (tensor {self.name}) {at}"
        when = f"restored after step {self.step}" if self.step else "before the first step"
        return f"first in the state of {self.owner} (tensor {self.name}) {when}"


def first_difference(reference: Sequence[Record], found: Sequence[Record]) -> Difference | None:
    """The earliest difference of `found`'s processes from a run of `reference`'s, in the order of the computation.

    The state is compared on each process; outputs and gradients are those of the process that computed the shard.
    """
    known = {place: entries for record in reference for place, entries in record.sequences()}
    for (step, kind, shard), entries in list(known.items()):
        if kind == "start":
            known[step, "update", shard] = entries
        elif kind == "update":
            known[step, "start", shard] = entries
    earliest: tuple[tuple[int, int, int], Difference] | None = None
    for record in found:
        for (step, kind, shard), mine in record.sequences():
            theirs = known.get((step, kind, shard), [])
            index = _first(theirs, mine)
            if index is None:
                continue
            name = (mine if index < len(mine) else theirs)[index][0]
            # what is restored after a step is later than that step
            order = (step + (kind == "start"), ORDER.index(kind), index)
            if earliest is None or order < earliest[0]:
                module = name if kind == "output" else _owner(name, record.classes)
                earliest = order, Difference(step, kind, shard, name, _described(module, record.classes))
    return None if earliest is None else earliest[1]


def _first(a: Sequence[tuple[str, str]], b: Sequence[tuple[str, str]]) -> int | None:
    """The first position at which two sequences differ."""
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return index
    return None if len(a) == len(b) else min(len(a), len(b))


def _owner(tensor: str, classes: Mapping[str, str]) -> str:
    """The module of a tensor such as `layer1.0.conv1.weight` or `momentum.layer1.0.conv1.weight`."""
    module = tensor.rpartition(".")[0]
    for prefix in ("momentum", "ema"):
        if module not in classes and (module == prefix or module.startswith(f"{prefix}.")):
            return module.removeprefix(prefix).removeprefix(".")
    return module


def _described(module: str, classes: Mapping[str, str]) -> str:
    kind = f" ({classes[module]})" if module in classes else ""
    return f"module {module}{kind}" if module else f"the network{kind}"
