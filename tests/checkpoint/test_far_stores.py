"""A store that takes 20 ms a request lists 100 checkpoints, or none among 5,000 foreign objects, in under a second.

How long it takes is asked of a quiet machine alone (`-m long`). What it comes from is asked everywhere: one listing of
the checkpoints' names, and one request for each manifest, eight and more of them together.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import fsspec
import pytest

from dydist.checkpoint import Manifest, folder_name, open_storage, survey
from dydist.checkpoint._format import STATE, FileEntry
from helpers.checkpoint_places import Place, place_on
from helpers.faulty_proxy import FaultyProxy, faulty_proxy

DELAY_S = 0.02
TOGETHER = 8


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


def surveyed(
    place: Place, proxy: FaultyProxy, plan: Callable[[str], None] = lambda method: None
) -> tuple[int, int, float]:
    """Found checkpoints, requests that it took, seconds. `plan` is told of each request."""
    storage = open_storage(place.url, {**place.options, "endpoint_url": proxy.endpoint})
    storage.size("warm-up")  # imports and the connection
    proxy.seen.clear()
    proxy.paths.clear()
    proxy.plan = plan
    began = time.perf_counter()
    found = survey(storage)
    assert all(item.problem is None for item in found)
    return len(found), sum(proxy.seen.values()), time.perf_counter() - began


def test_many_checkpoints_are_read_together(direct: Place, proxy: FaultyProxy) -> None:
    """The store answers the request for a manifest when eight have come: fewer together would never be answered."""
    count = 5 * TOGETHER
    write_checkpoints(direct, count)
    write_foreign(direct, 10)
    manifests = threading.Barrier(TOGETHER, timeout=30)

    def together(method: str) -> None:
        if len(proxy.paths) > 1:  # the first is the listing
            manifests.wait()

    proxy.delay_s = 0.0
    found, requests, _ = surveyed(direct, proxy, together)
    assert (found, requests) == (count, 1 + count)
    listing, *manifests_read = map(unquote, proxy.paths)
    assert "/place/step-&" in f"{listing}&", "the names of foreign objects are asked for, too"
    assert all(path.endswith("/MANIFEST.json") for path in manifests_read)


@pytest.mark.long
def test_foreign_objects_cost_nothing(direct: Place, proxy: FaultyProxy) -> None:
    write_foreign(direct, 5000)
    write_checkpoints(direct, 3)
    found, requests, seconds = surveyed(direct, proxy)
    assert (found, requests) == (3, 1 + 3)
    print(f"5,000 foreign objects: {requests} requests, {seconds:.2f} s")


@pytest.mark.long
def test_both_in_under_a_second_on_a_quiet_machine(direct: Place, proxy: FaultyProxy) -> None:
    write_checkpoints(direct, 100)
    assert surveyed(direct, proxy)[2] < 1.0
    write_foreign(direct, 5000)
    assert surveyed(direct, proxy)[2] < 1.0
