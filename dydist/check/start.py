"""One process of a check's run: `python -m dydist.check.start RECORD STOP_AFTER FLAGS…`.

RECORD: the file to write what it computes to, or `-` for none; RANK is added to its name. STOP_AFTER: the finished
steps after which the run is asked to stop; 0: it is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydist.process.end import run_to_end
from dydist.process.stop import StopRequest, stop_with_parent
from dydist.train import run_process

if TYPE_CHECKING:
    from dydist.check.recorder import RecordedEngine
    from dydist.engine import Engine


def main(arguments: Sequence[str]) -> int:
    """Train; returns the exit code of the run."""
    file, steps, *flags = arguments
    stop_after = int(steps) or None
    watched: list[RecordedEngine] = []

    def watch(engine: Any) -> Engine:
        from dydist.check.recorder import RecordedEngine, StoppedEngine

        if file == "-":
            return StoppedEngine(engine, stop_after)
        watched.append(RecordedEngine(engine, stop_after))
        return watched[0]

    stop = StopRequest().listen()
    stop_with_parent()
    try:
        return run_process(flags, stop, watch=watch)
    finally:
        if watched:
            watched[0].record.save(record_file(Path(file), int(os.environ.get("RANK", "0"))))


def record_file(record: Path, rank: int) -> Path:
    """The file of one process."""
    return record.with_name(f"{record.name}-{rank}.json")


if __name__ == "__main__":
    run_to_end(lambda: main(sys.argv[1:]), ignore_stream_errors=True)
