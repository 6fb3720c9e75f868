"""A process with everything loaded, from which runs are forked to be killed: up in milliseconds.

Started as a program, it reads plans as JSON lines, forks a run for each, and writes its process id and its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict
from typing import Any

from helpers.killing_driver import Plan, drive, uninterrupted


class Child:
    """A run that was started; `exitcode` is None until `join` saw its end, and negative for a signal."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        if self.exitcode is None and (answer := self._zygote.answer(timeout)) is not None:
            self.exitcode = answer["exit"]

    def kill(self) -> None:
        if self.exitcode is None:
            os.kill(self.pid, signal.SIGKILL)


class Zygote:
    """Starts runs, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.killing_zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        assert self.answer(300) == {"ready": True}

    def start(self, plan: Plan) -> Child:
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(asdict(plan)) + "\n").encode())
        answer = self.answer(300)
        assert answer is not None, "the zygote is stuck"
        return Child(self, answer["pid"])

    def answer(self, timeout: float | None) -> dict[str, Any] | None:
        """Its next line; None where none comes in time."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return None
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        self._process.communicate(timeout=30)


def serve() -> None:
    """The program."""
    import s3fs
    import sshfs  # noqa: F401
    import torch

    import dydist.checkpoint._checkpointer
    import dydist.storage.remote  # noqa: F401

    torch.set_num_threads(1)  # a pool of threads would not outlive the fork
    asyncio.run(warm_up(s3fs))
    uninterrupted()
    tell({"ready": True})
    ended = None
    for line in sys.stdin:
        if ended is not None:
            os.waitpid(ended, 0)
        pid = os.fork()
        if pid == 0:
            try:
                drive(Plan(**json.loads(line)))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        tell({"pid": pid})
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        tell({"exit": end.si_status if end.si_code == os.CLD_EXITED else -end.si_status})
        ended = pid  # not reaped yet: whoever kills it late must not meet another process of that number


async def warm_up(s3fs: Any) -> None:
    """Make an S3 client once, which imports a lot: not again in each run."""
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:1", "asynchronous": True}
    system = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    await (await system.set_session()).close()


def tell(facts: dict[str, Any]) -> None:
    os.write(1, (json.dumps(facts) + "\n").encode())


if __name__ == "__main__":
    serve()
