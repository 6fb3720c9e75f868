"""Starts the processes of `dydist check` from a server that has torch loaded: up in a moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from dydist.process.local import ProcessError
from helpers.support import PRELOAD, free_port


def fork_processes(arguments: Sequence[str], processes: int, expected: int) -> None:
    """A `dydist.check.runs.Starter`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(processes)]
        started = [
            context.Process(target=_process, args=(rank, processes, port, list(arguments), log))
            for rank, log in enumerate(logs)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(600)
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
            process.join()
        for log, code in zip(logs, codes, strict=True):
            if code != expected:
                said = log.read_text(errors="replace")
                raise ProcessError(f"exit codes {codes}:\n{said}", code, said)


def _process(rank: int, size: int, port: str, arguments: list[str], log: Path) -> None:
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size)
        )
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from dydist.check.start import main

    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as tests/helpers/support.py does
