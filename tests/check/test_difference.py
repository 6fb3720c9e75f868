"""Which of several differences is named, without any run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dydist.check.difference import Difference, Entry, Record, first_difference

CLASSES = {"": "Net", "body": "Sequential", "body.conv": "Conv2d", "head": "Linear"}


def steps(
    first: int, last: int, shards: Sequence[int], *, changed: Sequence[tuple[object, ...]] = ()
) -> Record:
    """What a process with these shards records in steps `first` to `last`. `changed`: entries with other bits."""
    entries = [(first - 1, "start", -1, name) for name in ("body.conv.weight", "momentum.head.weight")]
    for step in range(first, last + 1):
        for shard in shards:
            entries += [(step, "output", shard, name) for name in ("body.conv", "body", "head", "")]
            entries += [(step, "gradient", shard, name) for name in ("head.weight", "body.conv.weight")]
        entries += [(step, "update", -1, name) for name in ("body.conv.weight", "momentum.head.weight")]
    return Record(
        [
            # the state after a step is what the next start restores
            Entry(*entry, f"{entry[0]}{entry[2]}{entry[3]}" + ("!" if entry in changed else ""))  # type: ignore[arg-type]
            for entry in entries
        ],
        CLASSES,
    )


REFERENCE = [steps(1, 4, range(4))]


def named(*found: Record) -> Difference | None:
    return first_difference(REFERENCE, found)


def test_nothing_differs_however_the_shards_and_steps_are_divided() -> None:
    assert named(steps(1, 4, (0, 1)), steps(1, 4, (2, 3))) is None
    assert named(steps(1, 2, (0, 1)), steps(1, 2, (2, 3)), steps(3, 4, range(4))) is None


def test_the_earliest_in_the_order_of_the_computation() -> None:
    later = (3, "output", 0, "body.conv"), (2, "update", -1, "body.conv.weight"), (2, "output", 3, "head")
    found = named(steps(1, 4, (0, 1), changed=later[:2]), steps(1, 4, (2, 3), changed=later))
    assert str(found) == "first in the forward output of module head (Linear) at step 2, shard 3"


def test_gradients_updates_and_what_was_restored() -> None:
    found = named(steps(1, 4, range(4), changed=[(2, "gradient", 1, "body.conv.weight")]))
    assert str(found) == (
        "first in the gradient of module body.conv (Conv2d) (parameter body.conv.weight) at step 2, shard 1"
    )
    found = named(steps(1, 4, range(4), changed=[(2, "update", -1, "momentum.head.weight")]))
    assert str(found) == "first in the update of module head (Linear) (tensor momentum.head.weight) at step 2"
    begun = [(2, "start", -1, "body.conv.weight")]
    found = named(steps(1, 2, range(4)), steps(3, 4, range(4), changed=begun))
    assert str(found) == (
        "first in the state of module body.conv (Conv2d) (tensor body.conv.weight) restored after step 2"
    )


def test_one_process_of_several_with_another_state() -> None:
    found = named(steps(1, 4, (0, 1)), steps(1, 4, (2, 3), changed=[(4, "update", -1, "body.conv.weight")]))
    assert found is not None
    assert (found.step, found.kind) == (4, "update")


def test_a_module_that_is_called_less_often(tmp_path: Path) -> None:
    whole = steps(1, 1, range(4))
    entries = [entry for entry in whole.entries if entry[:4] != (1, "output", 2, "")]
    Record(entries, CLASSES).save(tmp_path / "record")
    found = named(Record.read(tmp_path / "record"))
    assert str(found) == "first in the forward output of the network (Net) at step 1, shard 2"
