"""Waits for all processes of a run before the process group is set up; a signal ends the wait.

torch's rendezvous waits in C++, where Python's signal handlers do not run: if one process is late, a stopped run
would be killed after its grace time, or wait for `parallel.timeout_s`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError, Store, TCPStore

from dydist.errors import StopRequestedError
from dydist.process.launcher import Process

ROUND_S, CONNECT_S = 0.2, 1.0
"""Seconds between checks of the stop request, and timeout of one connection attempt."""
_ARRIVED, _DECISION, _LEFT = "dydist/arrived", "dydist/decision", "dydist/left"


def rendezvous(process: Process, *, timeout_s: float, stop_requested: Callable[[], bool]) -> Store:
    """Wait until all processes have connected to the store at MASTER_ADDR:MASTER_PORT, which process 0 serves.

    Keep the returned store until the process group is set up, which uses the same server. All processes get the same
    answer: the last one to arrive writes "go", one that is asked to stop writes "stop", and the first write counts.
    Raises StopRequestedError for "stop", TimeoutError after `timeout_s` seconds, ConnectionError if process 0 has
    exited.
    """
    deadline = time.monotonic() + timeout_s
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = process.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _connect(process, address, serves, deadline, stop_requested)
    try:
        if store.add(_ARRIVED, 1) == process.world_size:
            store.compare_set(_DECISION, "", "go")
        while not store.check([_DECISION]):
            if stop_requested():
                store.compare_set(_DECISION, "", "stop")
            elif time.monotonic() > deadline:
                came = store.add(_ARRIVED, 0)
                raise _late(address, f"{came} of {process.world_size} processes came")
            else:
                time.sleep(ROUND_S)  # not `store.wait`, which logs a warning every round
        if store.get(_DECISION) == b"go":
            return store
        store.add(_LEFT, 1)
        last = time.monotonic() + 1
        while serves and store.add(_LEFT, 0) < store.add(_ARRIVED, 0) and time.monotonic() < last:
            time.sleep(ROUND_S / 10)  # the store ends with this process: let the others read it first
    except DistError as error:
        if not stop_requested():
            raise ConnectionError(
                f"rendezvous: process 0 left {address[0]}:{address[1]} before all {process.world_size} processes were "
                "there; its output says why"
            ) from error
    raise StopRequestedError


def _connect(
    process: Process,
    address: tuple[str, int],
    serves: bool,
    deadline: float,
    stop_requested: Callable[[], bool],
) -> Store:
    if serves:
        return TCPStore(*address, process.world_size, True, wait_for_workers=False, multi_tenant=True)
    while True:
        # first with a plain socket, since torch logs every attempt
        with suppress(OSError, DistError), socket.create_connection(address, timeout=CONNECT_S):
            return TCPStore(
                *address, process.world_size, timeout=timedelta(seconds=5), wait_for_workers=False
            )
        if stop_requested():
            raise StopRequestedError
        if time.monotonic() > deadline:
            raise _late(address, "nobody answered")
        time.sleep(ROUND_S)


def _late(address: tuple[str, int], what: str) -> TimeoutError:
    return TimeoutError(
        f"rendezvous: {what} at {address[0]}:{address[1]} within parallel.timeout_s; look at the output of the "
        "processes that are missing, or raise parallel.timeout_s"
    )
