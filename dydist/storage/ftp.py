"""A file over FTP in one transfer each way: fsspec cuts it into parts that not every server can continue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ftplib import FTP

from dydist.storage.protocol import READ_BYTES


def retrieve(ftp: FTP, path: str) -> Iterator[bytes]:
    """A file's bytes. A reader that stops before the end leaves the connection unusable."""
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd(f"RETR {path}") as data:
        while chunk := data.recv(READ_BYTES):
            yield chunk
    ftp.voidresp()


def store(ftp: FTP, path: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file. What is broken off stays there, cut short."""
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd(f"STOR {path}") as data:
        for chunk in chunks:
            data.sendall(chunk)
    ftp.voidresp()
