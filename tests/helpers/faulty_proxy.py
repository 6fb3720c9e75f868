"""A proxy in front of an S3 server that does to real requests, on the wire, what bad stores and networks do.

`fault` says what happens to every request from now on, and may be changed at any time; `seen` counts what it did, and
`paths` has what was asked for.
`delay_s` makes the way to the store long.
"""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_BYTES_PER_S = 100_000
SLICE = 10_000

FAULTS = (
    *("none", "unavailable", "throttled", "dropped", "hanging", "slow", "half"),
    *("spoilt", "spoilt once", "reordered"),
)
"""none · 503 · SlowDown · reset in the middle of the body · no answer · 100 kB/s each way · half of a file is stored
and "200 OK" answered · a wrong byte in each tensor file that is read · the same, at its first read alone · listings in
reverse order."""


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `endpoint` (http://host:port) through the fault of the moment. `every`: hit each n-th request.

    `plan` says of each request whether it fails "before" it is forwarded, or "after", when its answer is lost.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(endpoint)
        self.fault = "none"
        self.every = 1
        self.delay_s = 0.0
        self.seen: Counter[str] = Counter()
        self.paths: list[str] = []
        self.read: set[tuple[str, str | None]] = set()
        self.turns = itertools.count(1)
        self.over = threading.Event()
        self.plan: Callable[[str], str | None] = lambda method: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def set(self, fault: str, *, every: int = 1) -> None:
        """From the next request on. Requests that hang are let go."""
        assert fault in FAULTS, fault
        self.fault, self.every = fault, every
        self.over.set()
        self.over = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news here."""


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[FaultyProxy]:
    """A running proxy."""
    proxy = FaultyProxy(endpoint)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.set("none")
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        time.sleep(self.server.delay_s)
        proxy = self.server
        fault = proxy.fault if next(proxy.turns) % proxy.every == 0 else "none"
        proxy.seen[fault] += 1
        proxy.paths.append(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        when = proxy.plan(self.command)
        if when is not None:
            self._fail(when, self.rfile.read(length))
            return
        if fault == "dropped":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self._paced(self.rfile.read, length) if fault == "slow" else self.rfile.read(length)
        if fault == "hanging":
            proxy.over.wait()
            self._reset()
        elif fault == "unavailable":
            self._answer(503, {}, _error("ServiceUnavailable"))
        elif fault == "throttled":
            self._answer(503, {"Retry-After": "1"}, _error("SlowDown"))
        else:
            self._forward(fault, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _forward(self, fault: str, body: bytes) -> None:
        tensors = ".safetensors" in self.path
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if fault == "half" and self.command == "PUT" and tensors:
            body = body[: len(body) // 2]
            headers = {
                n: v for n, v in headers.items() if "md5" not in n.lower() and "checksum" not in n.lower()
            }
        connection = http.client.HTTPConnection(self.server.target.netloc, timeout=60)
        try:
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        read = (self.path, self.headers.get("Range"))
        spoilt = fault == "spoilt" or (fault == "spoilt once" and read not in self.server.read)
        if spoilt and self.command == "GET" and tensors and answer:
            self.server.read.add(read)
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        if fault == "reordered" and "list-type" in self.path:
            answer = _reversed_listing(answer)
        kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
        if self.command == "HEAD":  # its length is that of the body which is not sent
            kept["Content-Length"] = response.getheader("Content-Length") or "0"
        self._answer(response.status, kept, answer, slow=fault == "slow")

    def _fail(self, when: str, body: bytes) -> None:
        self.server.seen[when] += 1
        if when == "after":
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection = http.client.HTTPConnection(self.server.target.netloc, timeout=60)
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            connection.getresponse().read()
            connection.close()
        self._reset()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, slow: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if slow:
            for start in range(0, len(body), SLICE):
                piece = body[start : start + SLICE]
                self.wfile.write(piece)
                time.sleep(len(piece) / SLOW_BYTES_PER_S)
        else:
            self.wfile.write(body)

    def _paced(self, read: Any, length: int) -> bytes:
        parts = []
        for start in range(0, length, SLICE):
            parts.append(read(min(SLICE, length - start)))
            time.sleep(len(parts[-1]) / SLOW_BYTES_PER_S)
        return b"".join(parts)

    def _reset(self) -> None:
        """End the connection as a dying network does: without a word, the rest lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "upgrade"}
"""Headers of one connection, not of the message."""


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message></Error>'.encode()


def _reversed_listing(xml: bytes) -> bytes:
    """An answer to ListObjectsV2 with its keys and its folders in reverse order."""
    for tag in (b"Contents", b"CommonPrefixes"):
        opening, closing = b"<" + tag + b">", b"</" + tag + b">"
        first, last = xml.find(opening), xml.rfind(closing)
        if first < 0:
            continue
        entries = xml[first:last].split(closing)
        xml = xml[:first] + closing.join(reversed(entries)) + xml[last:]
    return xml
