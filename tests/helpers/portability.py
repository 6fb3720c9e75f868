"""The whole matrix: a checkpoint of each engine and world size, loaded by each of them, compared bit by bit.

    python tests/helpers/portability.py CIFAR_ROOT FOLDER

144 loads, about ten minutes: `-m long` runs it too. The ordinary suite has a chain through it
(test_deepspeed.py); docs/notes/engines.md has the result. Each target then goes on training for two steps in mid-epoch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from dydist.checkpoint import load, open_storage, survey
from dydist.engine import Progress
from dydist.run.session import Session
from helpers.support import Run, train

CELLS = [(engine, size) for engine in ("ddp", "zero1", "zero2", "zero3") for size in (1, 2, 4)]


def flags(root: Path, runs: Path, name: str, engine: str, last: int) -> list[object]:
    """Two steps of four of an epoch end it in mid-epoch."""
    zero = engine.removeprefix("zero")
    chosen = [] if engine == "ddp" else ["--parallel.engine", "deepspeed", "--parallel.zero", zero]
    return [
        *("--run.dir", runs, "--run.name", name, "--data.root", root, "--data.limit", 128),
        *("--train.batch_size", 32, "--train.max_steps", last, "--train.eval_every_epochs", 100),
        *("--model.width", "0.125", "--model.stem", "strided", "--monitor.quiet", "true"),
        *("--parallel.device", "cpu", *chosen),
    ]


def compare_all_sources() -> None:
    """In a target's process: before it goes on, load every source's checkpoint and compare what is held then."""
    restore = Session.restore

    def comparing(self: Session) -> Progress:
        wrong = {}
        for source in json.loads(os.environ["DYDIST_SOURCES"]):
            storage = open_storage(source)
            state = load(storage, survey(storage)[0])
            self.engine.load(state.model, state.optimizer, {}, {})
            held = {**self.engine.model_state(), **self.engine.optimizer_state()}
            wanted = {**state.model, **state.optimizer}
            differ = [name for name in wanted if not torch.equal(held[name].cpu(), wanted[name])]
            wrong[source] = differ + sorted(held.keys() ^ wanted.keys())
        if self.world.rank == 0:
            Path(os.environ["DYDIST_RESULT"]).write_text(json.dumps(wrong))
        return restore(self)

    Session.restore = comparing  # type: ignore[method-assign]


def main(root: Path, folder: Path) -> int:
    """Returns 1 if any tensor of any pair differs."""
    names = [f"{engine}x{size}" for engine, size in CELLS]
    for name, (engine, size) in zip(names, CELLS, strict=True):
        train(flags(root, folder, name, engine, 2), size, folder / "logs" / f"{name}-source")
    sources = [str(folder / name / "checkpoints") for name in names]
    bad = 0
    for name, (engine, size) in zip(names, CELLS, strict=True):
        result = folder / f"{name}.json"
        environment = {"DYDIST_SOURCES": json.dumps(sources), "DYDIST_RESULT": str(result)}
        log = folder / "logs" / f"{name}-target"
        run = Run(flags(root, folder, name, engine, 4), size, log, before=compare_all_sources, **environment)
        if run.wait(600) != [0] * size:
            print(run.text())
            return 1
        wrong = {Path(s).parent.name: names for s, names in json.loads(result.read_text()).items() if names}
        bad += len(wrong)
        print(
            f"{name}: {len(sources) - len(wrong)} of {len(sources)} sources equal to the bit {wrong or ''}",
            flush=True,
        )
    print(f"{len(CELLS) ** 2 - bad} of {len(CELLS) ** 2} pairs equal")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
