"""One writer a place: who is refused, who takes over, and who notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from dydist.checkpoint import Clock, LeaseHeldError, LeaseLostError, LeaseTiming
from dydist.checkpoint._format import encode_json
from dydist.checkpoint._lease import LEASE, Holder, Lease, this_process
from dydist.storage.local import LocalStorage

INTERVAL_S, TIMEOUT_S = 0.05, 0.4


class Place:
    """A place, and runs that want its lease."""

    def __init__(self, root: Path) -> None:
        self.storage = LocalStorage(root)
        self.notes: list[str] = []
        self.leases: list[Lease] = []

    def run(self, *, job: str = "", host: str = "here", interval_s: float = INTERVAL_S) -> Lease:
        me = this_process(run="mine", job=job, host=host, now=0.0)
        lease = Lease(
            lambda seconds: self.storage,
            me,
            timing=LeaseTiming(interval_s=interval_s, timeout_s=TIMEOUT_S),
            clock=Clock(),
            on_note=lambda text, *, level="info": self.notes.append(text),
        )
        self.leases.append(lease)
        return lease

    def leave(self, **facts: object) -> Holder:
        """A lease that somebody left behind."""
        other = replace(this_process(run="other", job="", host="there", now=0.0), machine="elsewhere", pid=1)
        other = replace(other, **facts)
        self.storage.write(LEASE, lambda: [encode_json(asdict(other))])
        return other


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for lease in place.leases:
        lease.release()


def test_a_live_one_on_another_host_is_not_taken(place: Place) -> None:
    holder = place.run(host="there", job="55")
    holder.acquire(1.0)
    with pytest.raises(
        LeaseHeldError, match=r"run 'mine' on host there, job 55, process \d+, since 1970-01-01 00:00:00"
    ):
        place.run().acquire(1.0)
    assert holder.lost is None


def test_a_silent_one_is_taken_after_the_timeout(place: Place) -> None:
    place.leave()
    began = time.monotonic()
    lease = place.run()
    lease.acquire(1.0)
    assert time.monotonic() - began >= TIMEOUT_S
    assert "waiting 0.4 s for a heartbeat" in place.notes[0]
    lease.check()


def test_the_same_jobs_earlier_attempt_is_taken_at_once(place: Place) -> None:
    place.leave(job="55")
    began = time.monotonic()
    place.run(job="55").acquire(1.0)
    assert time.monotonic() - began < TIMEOUT_S
    assert place.notes == []


def test_a_dead_process_of_this_machine_is_not_waited_for(place: Place) -> None:
    mine = this_process(run="x", job="", host="here", now=0.0)
    gone = max(psutil.pids()) + 1_000_000
    place.leave(machine=mine.machine, host="here", pid=gone)
    place.run().acquire(1.0)
    assert place.notes == []


def test_a_process_id_that_was_given_away_again_is_not_the_holder(place: Place) -> None:
    mine = this_process(run="x", job="", host="here", now=0.0)
    place.leave(machine=mine.machine, host="here", pid=psutil.Process().ppid(), process_started=1.0)
    place.run().acquire(1.0)
    assert place.notes == []


def test_a_live_process_of_this_machine_is_refused_at_once(place: Place) -> None:
    mine, parent = this_process(run="x", job="", host="here", now=0.0), psutil.Process().parent()
    assert parent is not None
    place.leave(machine=mine.machine, host="here", pid=parent.pid, process_started=parent.create_time())
    with pytest.raises(LeaseHeldError, match="run 'other' on host here"):
        place.run().acquire(1.0)


def test_an_unreadable_lease_is_taken_after_the_timeout(place: Place) -> None:
    place.storage.write(LEASE, lambda: [b"{torn"])
    place.run().acquire(1.0)
    assert "unreadable" in place.notes[0]


def test_the_loser_notices_and_leaves_the_new_lease_alone(place: Place) -> None:
    lost = threading.Event()
    place.notes = Watching(lost)
    lease = place.run()
    lease.acquire(1.0)
    other = place.leave(run="usurper")
    assert lost.wait(10)
    with pytest.raises(LeaseLostError, match="run 'usurper' on host there"):
        lease.check()
    lease.release()
    assert other.token.encode() in b"".join(place.storage.read(LEASE))


class SpoiltOnce(LocalStorage):
    """A disk whose next read comes with a wrong byte."""

    spoilt = False

    def read(self, name: str) -> Iterator[bytes]:
        for chunk in super().read(name):
            yield chunk if self.spoilt else b"?" + chunk[1:]
            self.spoilt = True


def test_a_wrong_byte_on_the_way_does_not_end_a_run(place: Place) -> None:
    lease = place.run(interval_s=60)
    lease.acquire(1.0)
    place.storage = SpoiltOnce(place.storage.root)
    lease.check()
    assert place.storage.spoilt
    assert lease.lost is None


class Watching(list):  # type: ignore[type-arg]
    """Notes that set an event when one comes."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def append(self, text: str) -> None:
        super().append(text)
        self._event.set()


def test_a_lease_given_back_is_free(place: Place) -> None:
    first = place.run(interval_s=60)
    first.acquire(1.0)
    first.release()
    assert place.storage.size(LEASE) is None
    place.run(host="there").acquire(1.0)
