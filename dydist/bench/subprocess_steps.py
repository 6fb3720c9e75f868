"""Training steps in a separate process with torch's defaults, as users run the reference implementation.

Run as a module, this is that process: it runs one step for each line that it reads, and replies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from dydist.bench.conv import Kind, train_step
from dydist.bench.target import Precision, Target
from dydist.models.resnet import Stem
from dydist.process.end import run_to_end


@contextmanager
def subprocess_steps(
    kind: Kind, *, stem: Stem, batch_size: int, width: float, precision: Precision = "fp32"
) -> Iterator[Callable[[], None]]:
    """A function that runs one training step in the process, on the CPU.

    The process has as many threads as this one, and none of the variables that dydist sets; between steps it sleeps.
    Raises RuntimeError if it exits.
    """
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    arguments = [kind, stem, str(batch_size), str(width), precision, str(torch.get_num_threads())]
    process = subprocess.Popen(
        [sys.executable, "-m", "dydist.bench.subprocess_steps", *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answered = process.stdin, process.stdout

    def step() -> None:
        try:
            asked.write("step\n")
            asked.flush()
            done = answered.readline()
        except BrokenPipeError:
            done = ""
        if done != "done\n":
            raise RuntimeError(f"the process of the {kind} network ended with {process.wait()}: see above")

    try:
        yield step
    finally:
        process.kill()
        process.wait()
        asked.close()
        answered.close()


def main(arguments: Sequence[str]) -> None:
    """One step for each line of standard input."""
    kind, stem, batch_size, width, precision, threads = arguments
    torch.set_num_threads(int(threads))
    target = Target("cpu", precision)  # type: ignore[arg-type]
    step = train_step(kind, stem, int(batch_size), float(width), target=target)  # type: ignore[arg-type]
    for _ in sys.stdin:
        step()
        print("done", flush=True)


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]))
