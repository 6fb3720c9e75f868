"""Pairs of processes that evaluate, train or measure, and how they end: by themselves, by a signal, by an error."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.support import PRELOAD, REPOSITORY, free_port

CASES = (
    *(("evaluate", "done"),) * 8,
    ("evaluate", "user error"),
    ("evaluate", "SIGTERM"),
    *(("train", "done"),) * 5,
    ("train", "user error"),
    *(("train", "SIGTERM"),) * 2,
    ("train", "SIGKILL"),
    ("train", "error"),
    *(("bench", "done"),) * 4,
    ("bench", "SIGTERM"),
)
"""25 pairs: ten evaluate, ten train, five measure."""
CODES = {"done": {0}, "user error": {2}, "error": {1}, "SIGTERM": {0, 75, -15}, "SIGKILL": {0, 1, -9}}
"""What each may end with: a signal may come before it is listened to, or when all is done."""
FRESH = 5
"""How many of 25 start a Python of their own; the others are forked from one that has imported torch."""


@dataclass(frozen=True)
class End:
    """One pair: its exit codes by rank (None: it hung), and what it printed."""

    command: str
    how: str
    codes: tuple[int | None, ...]
    text: str

    @property
    def wrong(self) -> bool:
        """Whether a process aborted, crashed, hung, or ended with another code than it should."""
        return "terminate called" in self.text or not set(self.codes) <= CODES[self.how]


class Pairs:
    """Runs pairs under `folder`; `seed` draws their order and the moments of signals."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.tally: Counter[tuple[str, str, tuple[int | None, ...]]] = Counter()
        self._random = random.Random(seed)
        self._small = (
            "--config quickstart --train.max_steps 2 --data.limit 64 --train.batch_size 16 --model.width 0.0625 "
            "--parallel.shards 2 --parallel.timeout_s 30 --monitor.quiet true "
            f"--run.dir {folder}"
        ).split()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*PRELOAD, "dydist.inference", "dydist.process.local"])
        trained = [sys.executable, "dydist/train.py", *self._small, "--run.name", "trained"]
        subprocess.run(trained, cwd=REPOSITORY, check=True, capture_output=True)

    def cases(self) -> list[tuple[str, str, bool]]:
        """All of CASES, in an order of this seed's, and whether each starts Pythons of its own."""
        mixed = self._random.sample(CASES, len(CASES))
        return [(*case, number % (len(CASES) // FRESH) == 0) for number, case in enumerate(mixed)]

    def run(self, command: str, how: str, fresh: bool) -> End:
        """Start a pair, end it, count how it ended; nothing of it is left when this returns."""
        number = self.tally.total()
        began = time.monotonic()
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        world |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        logs = [self.folder / f"{number}.{rank}" for rank in range(2)]
        pair: list[Any] = []
        for rank, log in enumerate(logs):
            words = self._words(command, how, number)
            told = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if how == "error" and rank == 1:
                told["DYDIST_TEST_FAIL"] = "1"
            arguments = (words, told, str(log))
            if fresh:
                code = f"from helpers import process_pairs; process_pairs.start(*{arguments!r})"
                environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
                pair.append(subprocess.Popen([sys.executable, "-c", code], env=environ))
            else:
                pair.append(self._context.Process(target=start, args=arguments))
                pair[-1].start()
        if how.startswith("SIG"):
            time.sleep(self._random.uniform(0, 20 if fresh else 6))  # at whatever it is then
            for process in pair if how == "SIGTERM" else pair[1:]:
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(process.pid, signal.Signals[how])
        codes = tuple(_code(process, began + 240) for process in pair)
        end = End(
            command, how, codes, "\n".join(log.read_text(errors="replace") for log in logs if log.exists())
        )
        self.tally[command, how, end.codes] += 1
        print(f"{number:3} {command:8} {how:10} {end.codes} {time.monotonic() - began:.1f} s", flush=True)
        if end.wrong:
            print(end.text[-6000:], flush=True)
        return end

    def _words(self, command: str, how: str, number: int) -> Sequence[str]:
        if command == "bench":
            return ("docs/benchmarks/engines.py", "ddp", "1", "8", "2", "0.0625", "cifar")
        if command == "evaluate":
            wrong = ("--step", "7") if how == "user error" else ()
            return ("dydist.cli.main", "evaluate", str(self.folder / "trained"), *wrong)
        # the wrong step is found when the world is up, and the place is looked at
        wrong = ("--checkpoint.resume", "7") if how == "user error" else ()
        return ("dydist/train.py", *self._small, "--run.name", f"run-{number}", *wrong)


def start(words: Sequence[str], environ: dict[str, str], log: str) -> None:
    """In a process of a pair: become the program that `words` name. Does not return."""
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environ)
    os.chdir(REPOSITORY)
    if "DYDIST_TEST_FAIL" in environ:
        _fail_at_the_first_step()
    sys.argv = list(words)
    if words[0].endswith(".py"):
        runpy.run_path(words[0], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _fail_at_the_first_step() -> None:
    from dydist.process.report import ProcessReport

    def fail(self: ProcessReport, step: int) -> None:
        raise OSError("an error on this rank alone")

    ProcessReport.heartbeat = fail  # type: ignore[method-assign]


def _code(process: Any, deadline: float) -> int | None:
    """Its exit code; None where it had to be killed at `deadline`."""
    left = max(1.0, deadline - time.monotonic())
    if isinstance(process, subprocess.Popen):
        try:
            return process.wait(left)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
    process.join(left)
    code: int | None = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return code
