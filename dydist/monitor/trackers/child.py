"""The process that sends to one tracker. The training process starts it, and never waits for it while it trains.

A process, since a tracker's client may hang, crash, import for seconds, print, or wait when the interpreter exits. It
reads one JSON line an order on standard input, and writes one a message on standard output. When the training process
dies, it dies at once, so that the next start's is alone.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from dydist.config.trackers import BUILT_IN, offered
from dydist.monitor.trackers.protocol import TrackedRun, Tracker
from dydist.monitor.trackers.sender import Sender
from dydist.storage.transient import explain
from dydist.text.redaction import register_environment

RETRY_S = 30.0
_CLOSING_RETRY_S = 1.0
_PR_SET_PDEATHSIG = 1


def main(spec: dict[str, Any]) -> NoReturn:
    """Obey the orders on standard input: `{"covered": STEP}`, then `{"close": STATE}`."""
    _prepare()
    messages = _private_output()
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, orders), daemon=True).start()

    def tell(text: str, level: str) -> None:
        print(json.dumps({"text": text, "level": level}), file=messages, flush=True)

    sender = Sender(
        lambda: make(spec["name"]),
        name=spec["name"],
        run=TrackedRun(id="", name=spec["run"], folder=Path(spec["folder"]), config=spec["config"]),
        events=Path(spec["events"]),
        resumed=spec["step"],
        tell=tell,
    )
    obey(sender, orders, tell, done=lambda step: print(json.dumps({"sent": step}), file=messages, flush=True))
    print(json.dumps({"finished": True}), file=messages, flush=True)
    os._exit(0)  # exit handlers of trackers may wait for their servers


def obey(
    sender: Sender,
    orders: queue.SimpleQueue[dict[str, Any]],
    tell: Callable[[str, str], None],
    *,
    done: Callable[[int], None] = lambda step: None,
    retry_s: float = RETRY_S,
) -> None:
    """Send what the orders say, until the tracker has taken the last one.

    An error is told at its start and at its end, and tried again.
    """
    covered, state, failing = -1, None, False
    while True:
        wait_s = retry_s if state is None else min(retry_s, _CLOSING_RETRY_S)
        for order in _waiting(orders, wait_s if failing else None):
            covered, state = order.get("covered", covered), order.get("close", state)
        try:
            sender.send(covered)
            if state is not None:
                sender.finish(state)
        except Exception as error:  # any error of any tracker
            sender.give_up()
            if not failing:
                tell(f"cannot be reached ({explain(error)}); trying again", "warning")
            failing = True
        else:
            if failing:
                tell("takes data again", "info")
            failing = False
            done(covered)
            if state is not None:
                return


def _waiting(orders: queue.SimpleQueue[dict[str, Any]], timeout_s: float | None) -> Iterator[dict[str, Any]]:
    """The orders that are there; waits for the first, up to `timeout_s`."""
    with suppress(queue.Empty):
        yield orders.get(timeout=timeout_s)
        while True:
            yield orders.get_nowait()


def make(name: str) -> Tracker:
    """A tracker built in, or one that an installed package offers."""
    if name in BUILT_IN:
        module = importlib.import_module(f"dydist.monitor.trackers.{name}")
        return module.WandbTracker() if name == "wandb" else module.MlflowTracker()  # type: ignore[no-any-return]
    entry = offered(name)
    if entry is None:
        raise ModuleNotFoundError(f"no installed package offers {name}")
    return entry.load()()  # type: ignore[no-any-return]


def _prepare() -> None:
    """Low priority, no signals but SIGKILL, and that one when the parent dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)
    register_environment(os.environ)


def _private_output() -> TextIO:
    """Standard output for messages alone; what libraries print goes to the null device."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return private


def _listen(orders: TextIO, queued: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in orders:
        queued.put(json.loads(line))
    os._exit(1)  # the training process is gone
