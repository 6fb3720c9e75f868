"""Admits one writer to a store: LEASE.json names the lease holder and carries its heartbeat.

If the store has an exclusive create (local disks, SFTP, memory, S3 with conditional writes), two runs that start at
the same time cannot both take the lease. Taking over a dead run's lease is atomic on no store: the new holder writes
it, waits a moment and reads it again. Every holder also reads the lease before each commit.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from dydist.checkpoint._context import Clock, LeaseTiming
from dydist.checkpoint._format import encode_json, is_integer, is_number, is_text, read_json
from dydist.errors import CancelledError, LeaseHeldError, LeaseLostError
from dydist.storage.protocol import Storage
from dydist.storage.retry import Tell
from dydist.storage.transient import explain

LEASE = "LEASE.json"
SETTLE_S = 0.5
"""Seconds between overwriting a dead run's lease and reading it again."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a lease. Times are seconds since 1970 by the holder's clock; `beat` counts heartbeats."""

    token: str
    run: str
    job: str
    host: str
    machine: str
    pid: int
    process_started: float
    acquired_at: float
    beat: int = 0
    beat_at: float = 0.0

    def describe(self) -> str:
        """The facts for a message."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.acquired_at))
        job = f", job {self.job}" if self.job else ""
        return f"run {self.run!r} on host {self.host}{job}, process {self.pid}, since {since}"


def this_process(*, run: str, job: str, host: str, now: float) -> Holder:
    """A holder that describes the calling process."""
    return Holder(
        token=uuid.uuid4().hex,
        run=run,
        job=job,
        host=host,
        machine=_machine(),
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        acquired_at=now,
        beat_at=now,
    )


class Lease:
    """The lease of one store, held by process 0 of a run.

    `storage(seconds)` returns the store, with operations retried for that long. `cancelled` ends an `acquire` that
    waits. `name` is the lease's file name, `field` the configuration field for error messages.
    """

    def __init__(
        self,
        storage: Callable[[float], Storage],
        me: Holder,
        *,
        timing: LeaseTiming,
        clock: Clock,
        on_note: Tell,
        cancelled: threading.Event | None = None,
        name: str = LEASE,
        field: str = "checkpoint.url",
    ) -> None:
        self._name, self._field = name, field
        self._storage = storage
        self._me = me
        self._interval_s, self._timeout_s = timing.interval_s, timing.timeout_s
        self._clock = clock
        self._on_note = on_note
        self._cancelled = cancelled or threading.Event()
        self.held = False
        """Whether the lease was taken and not yet released."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._lost: str | None = None

    @property
    def url(self) -> str:
        """The URL of the leased store, without secrets."""
        return self._storage(0).url

    @property
    def lost(self) -> str | None:
        """The description of the run that took the lease over; None while this run holds it."""
        return self._lost

    def acquire(self, deadline_s: float) -> None:
        """Take the lease and renew it in the background.

        Raises LeaseHeldError if the holder is alive. If that is not known, waits up to `timeout_s` for a heartbeat.
        The lease of an earlier start of the same job, or of a dead process of this machine, is taken over at once.
        Raises CancelledError if cancelled.
        """
        try:
            self._take(self._storage(deadline_s))
            self._pause(0.0)
        except CancelledError:
            self._give_back(0.0)
            raise
        self._thread = threading.Thread(target=self._beat_forever, name="checkpoint-lease", daemon=True)
        self._thread.start()

    def _take(self, storage: Storage) -> None:
        while True:
            try:
                storage.create(self._name, self._encode())
                break
            except FileExistsError:
                raw = _read(storage, self._name)
            if raw is None or self._is_me(
                raw
            ):  # released meanwhile; or our own write, whose response was lost
                if raw is None:
                    continue
                break
            self._await_death(storage, raw)
            if _read(storage, self._name) != raw:
                continue  # another run was faster; read again
            storage.write(self._name, lambda: [self._encode()])
            self._pause(SETTLE_S if not self._same_job(raw) else 0.0)
            now = _read(storage, self._name)
            if now is not None and self._is_me(now):
                break
        self.held = True

    def _pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds) or self._stop.is_set():
            raise CancelledError("given up")

    def check(self) -> None:
        """Read the lease again. Raises LeaseLostError if another run holds it now."""
        with self._lock:
            if self._lost is None:
                raw = _read(self._storage(self._interval_s), self._name)
                if raw is not None and not self._is_me(raw):  # read it twice before giving up
                    raw = _read(self._storage(self._interval_s), self._name)
                if raw is not None and not self._is_me(raw):
                    holder = _decode(raw)
                    self._lost = holder.describe() if holder else "an unknown run"
                elif raw is None:  # a user removed it: take it again
                    self._storage(self._interval_s).write(self._name, lambda: [self._encode()])
        if self._lost is not None:
            raise LeaseLostError(
                f"{self._storage(0).url} was taken over by {self._lost}; this run writes no more"
            )

    def release(self) -> None:
        """Release the lease, if this run still holds it."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        self._give_back(self._interval_s)

    def _give_back(self, patience_s: float) -> None:
        self.held = True  # requests made while the lease is not held end when `cancelled` is set
        try:
            storage = self._storage(patience_s)
            raw = _read(storage, self._name)
            if raw is not None and self._is_me(raw):
                storage.delete(self._name)
        except Exception as error:
            if patience_s > 0:  # 0: the start was cancelled, and has reported the store's error
                self._on_note(
                    f"the lease of {self._storage(0).url} could not be released: {explain(error)}",
                    level="warning",
                )
        finally:
            self.held = False

    def _beat_forever(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.check()
                with self._lock:
                    self._me = replace(self._me, beat=self._me.beat + 1, beat_at=self._clock.now())
                    self._storage(self._interval_s).write(self._name, lambda: [self._encode()])
            except LeaseLostError as error:
                self._on_note(str(error), level="error")
                return
            except Exception as error:
                if not self._stop.is_set():
                    self._on_note(
                        f"the lease of {self._storage(0).url} cannot be renewed: {explain(error)}",
                        level="warning",
                    )

    def _await_death(self, storage: Storage, raw: bytes) -> None:
        holder = _decode(raw)
        if holder is not None:
            here = holder.machine == self._me.machine and holder.host == self._me.host
            if here and holder.pid != self._me.pid:
                if _is_alive(holder):
                    raise self._refusal(holder)
                return
            if self._same_job(raw) and not here:
                return
        until = self._clock.monotonic() + self._timeout_s
        who = holder.describe() if holder else "an unreadable lease"
        self._on_note(
            f"{storage.url} is held by {who}; waiting {self._timeout_s:g} s for a heartbeat",
            level="warning",
        )
        while (left := until - self._clock.monotonic()) > 0:
            self._pause(min(left, self._interval_s / 4))
            seen = _read(storage, self._name)
            if seen is None:
                return
            if seen != raw:
                raise self._refusal(_decode(seen) or holder)

    def _refusal(self, holder: Holder | None) -> LeaseHeldError:
        return LeaseHeldError(
            f"{self._field}: {self._storage(0).url} is in use by {holder.describe() if holder else 'another run'}; "
            "only one run may write there; wait for it or cancel it, or give this run another run.name or "
            "checkpoint.url"
        )

    def _same_job(self, raw: bytes) -> bool:
        holder = _decode(raw)
        return holder is not None and bool(holder.job) and holder.job == self._me.job

    def _is_me(self, raw: bytes) -> bool:
        holder = _decode(raw)
        return holder is not None and holder.token == self._me.token

    def _encode(self) -> bytes:
        return encode_json(asdict(self._me))


def _read(storage: Storage, name: str) -> bytes | None:
    try:
        return b"".join(storage.read(name))
    except FileNotFoundError:
        return None


def _decode(raw: bytes) -> Holder | None:
    """The holder that a lease names; None if no run wrote this file."""
    try:
        values = read_json(raw)
    except ValueError:
        return None
    if values.keys() != _FIELDS.keys() or not all(_FIELDS[name](value) for name, value in values.items()):
        return None
    return Holder(**values)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("token", "run", "job", "host", "machine"), is_text),
    **dict.fromkeys(
        ("process_started", "acquired_at", "beat_at"), lambda v: is_number(v) and -1e11 < v < 1e11
    ),
    "pid": lambda v: is_integer(v, 1, 2**31 - 1),
    "beat": lambda v: is_integer(v, 0, 2**62),
}
"""The fields of a lease, and their checks: a process id or a time out of range would raise where it is used."""


def _machine() -> str:
    """Identifies the booted system and the process namespace, in which a process id is unique."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{psutil.boot_time()}"


def _is_alive(holder: Holder) -> bool:
    try:
        process = psutil.Process(holder.pid)
        same = abs(process.create_time() - holder.process_started) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
