"""Transfers of whole files over FTP: fsspec would split them into parts, which not every server supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ftplib import FTP

from dydist.storage.protocol import READ_BYTES


def retrieve(ftp: FTP, path: str) -> Iterator[bytes]:
    """Read a file. If the reader stops before the end, the connection is unusable."""
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd(f"RETR {path}") as data:
        while chunk := data.recv(READ_BYTES):
            yield chunk
    ftp.voidresp()


def store(ftp: FTP, path: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file. If it fails, a truncated file remains."""
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd(f"STOR {path}") as data:
        for chunk in chunks:
            data.sendall(chunk)
    ftp.voidresp()
