"""One writer a place: LEASE.json holds who writes there, with a heartbeat.

Where the store can create a file only if there is none (local disks, SFTP, memory, S3 with conditional writes) two
runs that start at once cannot both get the lease. Taking over a dead run's lease is not atomic anywhere: the new owner
writes, waits a moment and reads again, and every owner reads the lease before each commit.
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

from dydist.checkpoint._format import encode_json, is_integer, is_number, is_text, read_json
from dydist.errors import CancelledError, LeaseHeldError, LeaseLostError
from dydist.storage.protocol import Storage
from dydist.storage.retry import Tell
from dydist.storage.transient import explain

LEASE = "LEASE.json"
SETTLE_S = 0.5
"""Between writing over a dead run's lease and believing that nobody else did."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease. Times are seconds since 1970 by the holder's clock; `beat` counts heartbeats."""

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
    """The lease of one place, held by process 0 of a run.

    `storage(seconds)` gives the place with operations tried again for so long. `clock` is monotonic, `now` is the
    time of day. `cancelled` ends an `acquire` that waits. `name` is the lease's file, `field` the configuration's field
    that says where.
    """

    def __init__(
        self,
        storage: Callable[[float], Storage],
        me: Holder,
        *,
        interval_s: float,
        timeout_s: float,
        clock: Callable[[], float],
        now: Callable[[], float],
        on_note: Tell,
        cancelled: threading.Event | None = None,
        name: str = LEASE,
        field: str = "checkpoint.url",
    ) -> None:
        self._name, self._field = name, field
        self._storage = storage
        self._me = me
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._now = now
        self._on_note = on_note
        self._cancelled = cancelled or threading.Event()
        self.held = False
        """Whether it was taken and not yet given back."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._lost: str | None = None

    @property
    def url(self) -> str:
        """What is leased, as shown to people."""
        return self._storage(0).url

    @property
    def lost(self) -> str | None:
        """Who took the lease over, in words; None while it is held."""
        return self._lost

    def acquire(self, deadline_s: float) -> None:
        """Take the lease and keep it alive in the background.

        Raises LeaseHeldError where another run is alive. A run that cannot be seen alive is waited for, at most
        `timeout_s`; the same job's own earlier attempt and a dead process of this machine are not waited for. Raises
        CancelledError where it was given up.
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
            if raw is None or self._is_me(raw):  # gone meanwhile; or our own write, whose answer was lost
                if raw is None:
                    continue
                break
            self._await_death(storage, raw)
            if _read(storage, self._name) != raw:
                continue  # somebody else was quicker; look again
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
        """Read the lease again. Raises LeaseLostError where another run holds it now."""
        with self._lock:
            if self._lost is None:
                raw = _read(self._storage(self._interval_s), self._name)
                if raw is not None and not self._is_me(raw):  # believe it the second time
                    raw = _read(self._storage(self._interval_s), self._name)
                if raw is not None and not self._is_me(raw):
                    holder = _decode(raw)
                    self._lost = holder.describe() if holder else "an unknown run"
                elif raw is None:  # removed by hand: take it again
                    self._storage(self._interval_s).write(self._name, lambda: [self._encode()])
        if self._lost is not None:
            raise LeaseLostError(
                f"{self._storage(0).url} was taken over by {self._lost}; this run writes no more"
            )

    def release(self) -> None:
        """Give the lease back, if it is still ours."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        self._give_back(self._interval_s)

    def _give_back(self, patience_s: float) -> None:
        self.held = True  # for as long as this takes: what gives it back is not cancelled
        try:
            storage = self._storage(patience_s)
            raw = _read(storage, self._name)
            if raw is not None and self._is_me(raw):
                storage.delete(self._name)
        except Exception as error:
            if patience_s > 0:  # else the store's trouble was told, and a start was given up for it
                self._on_note(
                    f"the lease of {self._storage(0).url} could not be given back: {explain(error)}",
                    level="warning",
                )
        finally:
            self.held = False

    def _beat_forever(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.check()
                with self._lock:
                    self._me = replace(self._me, beat=self._me.beat + 1, beat_at=self._now())
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
        until = self._clock() + self._timeout_s
        who = holder.describe() if holder else "an unreadable lease"
        self._on_note(
            f"{storage.url} is held by {who}; waiting {self._timeout_s:g} s for a sign of life",
            level="warning",
        )
        while (left := until - self._clock()) > 0:
            self._pause(min(left, self._interval_s / 4))
            seen = _read(storage, self._name)
            if seen is None:
                return
            if seen != raw:
                raise self._refusal(_decode(seen) or holder)

    def _refusal(self, holder: Holder | None) -> LeaseHeldError:
        return LeaseHeldError(
            f"{self._field}: {self._storage(0).url} is in use by {holder.describe() if holder else 'another run'}; "
            "one run may write there; wait for it or cancel it, or give this run another run.name or checkpoint.url"
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
    """Who a lease names; None where it is none that a run wrote."""
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
"""What a lease has. A process id or a time beyond these would be an error where it is used."""


def _machine() -> str:
    """The running kernel and its process namespace: where a process id means something."""
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
