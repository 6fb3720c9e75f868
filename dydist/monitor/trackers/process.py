"""The monitor that hands a run to a tracker: it starts the process that sends, and tells it of checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dydist.monitor.null import NullMonitor
from dydist.records import CheckpointRecord, RunSummary, StepRecord

CLOSE_S = {"done": 60.0}
"""Seconds that the end of a run waits for its trackers, all together. A run that is stopped or failed waits
`_STOPPED_S`: its next start sends the rest."""
_STOPPED_S = 3.0
SLOW_S = 120.0
"""Seconds after which a tracker that has not taken a checkpoint's steps is reported, once."""
_BOOTSTRAP = (
    "import json, sys; spec = json.loads(sys.stdin.readline()); sys.path[:] = spec['path']; "
    "from dydist.monitor.trackers.child import main; main(spec)"
)
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that would make a library in the child wait for the run's other processes."""


class TrackerProcess(NullMonitor):
    """Keeps one tracker's process. Writes to it and reads from it without waiting, except in `close`."""

    def __init__(
        self,
        name: str,
        *,
        run: str,
        run_dir: Path,
        events: Path,
        config: Mapping[str, Any],
        tell: Callable[[str, str], None],
        close_s: Mapping[str, float] = CLOSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`events`: the folder of the TensorBoard log. `config`: by field, without secrets."""
        self._name, self._tell, self._close_s, self._monotonic = name, tell, close_s, monotonic
        self._spec = {
            "name": name,
            "run": run,
            "folder": str(run_dir.absolute()),
            "events": str(events.absolute()),
            "config": dict(config),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._covered = self._sent = 0
        self._behind_since: float | None = None
        self._told: set[str] = set()
        self._read = b""
        self._finished = False
        self._close_by: float | None = None
        self.peers: Sequence[TrackerProcess] = (self,)
        """The trackers of this run: the first that is closed tells all, so that they end at the same time."""

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._covered = step
        self._spawn()

    def step(self, record: StepRecord) -> None:
        self._hear()
        ended = self._process is not None and self._process.poll() is not None
        if ended and self._monotonic() - self._spawned > SLOW_S:
            self._once("its process ended by itself; it is started again")
            self._spawn()
        if self._behind_since is not None and self._monotonic() - self._behind_since > SLOW_S:
            self._once(f"has not taken a checkpoint's steps for {SLOW_S:.0f} s; it gets them later")

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is None:
            self._covered = max(self._covered, record.step)
            if self._behind_since is None:
                self._behind_since = self._monotonic()
            self._say({"covered": self._covered})

    def close(self, summary: RunSummary) -> None:
        if self._process is None:
            return
        for peer in self.peers:
            peer._order_close(summary.state)
        assert self._close_by is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._close_by - self._monotonic()))
        self._hear()
        if not self._finished:  # of what `log` took, a tracker's client may have sent nothing yet
            self._tell(f"{self._name} may not have all steps; the same command sends the rest", "warning")
        self._end()

    def _order_close(self, state: str) -> None:
        if self._close_by is None:
            self._close_by = self._monotonic() + self._close_s.get(state, _STOPPED_S)
            self._say({"close": state})

    def _spawn(self) -> None:
        self._end()
        self._read = b""
        self._spawned = self._monotonic()
        environment = {name: value for name, value in os.environ.items() if name not in _OF_LAUNCHERS}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._say(
            {**self._spec, "step": self._covered, "path": [os.path.abspath(place) for place in sys.path]}
        )
        self._say({"covered": self._covered})
        os.set_blocking(self._out, False)

    @property
    def _out(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _say(self, order: Mapping[str, Any]) -> None:
        """Write an order. If the child reads none, the pipe fills: what is left out, the next start sends."""
        if self._process is None or self._process.stdin is None:
            return
        os.set_blocking(self._process.stdin.fileno(), "path" in order)
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._process.stdin.fileno(), json.dumps(order).encode() + b"\n")

    def _hear(self) -> None:
        if self._process is None:
            return
        with suppress(BlockingIOError):
            while part := os.read(self._out, 1 << 16):
                self._read += part
        *lines, self._read = self._read.split(b"\n")
        for message in map(json.loads, lines):
            if "sent" in message:
                self._sent = max(self._sent, message["sent"])
                if self._sent >= self._covered:
                    self._behind_since = None
            elif "finished" in message:
                self._finished = True
            else:
                self._tell(f"{self._name} {message['text']}", message["level"])

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(f"{self._name}: {text}", "warning")

    def _end(self) -> None:
        """Kill what is left of the child. W&B's own process, wandb-core, is in another session and ends with it."""
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        if self._process.returncode is None:  # else its number may be another process's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
