"""A store that takes 20 ms a request lists 100 checkpoints, or none among 5,000 foreign objects, in under a second."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest
from checkpoint_places import Place, place_on
from faulty_proxy import FaultyProxy, faulty_proxy

from dydist.checkpoint import Manifest, folder_name, open_storage, survey
from dydist.checkpoint._format import STATE, FileEntry

DELAY_S = 0.02


@pytest.fixture
def proxy(s3_server: dict[str, Any]) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server["endpoint_url"]) as proxy:
        proxy.delay_s = DELAY_S
        yield proxy


@pytest.fixture
def direct(request: pytest.FixtureRequest) -> Place:
    """The place without the proxy."""
    return place_on("s3", request)


def write_checkpoints(place: Place, count: int) -> None:
    """The smallest that a survey takes for checkpoints."""
    storage = open_storage(place.url, place.options)
    content = b"weights"
    entry = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    files = {"model-00000-of-00001-0123456789ab.safetensors": entry, STATE: entry}

    def write(step: int) -> None:
        for name in files:
            storage.write(f"{folder_name(step)}/{name}", lambda: [content])
        manifest = Manifest(
            step=step, attempt="0123456789ab", run="far", job="", host="here", written_at=0.0, accuracy=None,
            world_size=1, files=files,
        )  # fmt: skip
        storage.publish(folder_name(step), folder_name(step), manifest.encode())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(1, count + 1)))


def write_foreign(place: Place, count: int) -> None:
    """Objects of others in the place, a third of them in folders of their own."""
    system = fsspec.filesystem("s3", **place.options, skip_instance_cache=True)
    names = (f"{'notes' if i % 3 else f'other-{i}/notes'}-{i}.txt" for i in range(count))
    system.pipe({f"{place.url.removeprefix('s3://')}/{name}": b"x" for name in names})


def surveyed(place: Place, proxy: FaultyProxy) -> tuple[int, int, float]:
    """Found checkpoints, requests that it took, seconds."""
    storage = open_storage(place.url, {**place.options, "endpoint_url": proxy.endpoint})
    storage.size("warm-up")  # imports and the connection
    proxy.seen.clear()
    began = time.perf_counter()
    found = survey(storage)
    assert all(item.problem is None for item in found)
    return len(found), sum(proxy.seen.values()), time.perf_counter() - began


def test_many_checkpoints_are_read_together(direct: Place, proxy: FaultyProxy) -> None:
    write_checkpoints(direct, 100)
    found, requests, seconds = surveyed(direct, proxy)
    assert found == 100
    assert requests <= 310
    assert proxy.most_at_once >= 8
    assert seconds < requests * DELAY_S  # whatever else the machine does: less than one after another
    print(f"100 checkpoints: {requests} requests, {seconds:.2f} s")


def test_foreign_objects_cost_no_request_each(direct: Place, proxy: FaultyProxy) -> None:
    write_foreign(direct, 5000)
    found, requests, seconds = surveyed(direct, proxy)
    assert found == 0
    assert requests <= 10
    print(f"5,000 foreign objects: {requests} requests, {seconds:.2f} s")


@pytest.mark.long
def test_both_in_under_a_second_on_a_quiet_machine(direct: Place, proxy: FaultyProxy) -> None:
    write_checkpoints(direct, 100)
    assert surveyed(direct, proxy)[2] < 1.0
    write_foreign(direct, 5000)
    assert surveyed(direct, proxy)[2] < 1.0
