"""Places: the folders and URLs to which checkpoints and logs are written. Parses, checks and opens them."""

from __future__ import annotations

import difflib
import os
import re
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dydist.errors import UserError
from dydist.storage.names import step_of
from dydist.text.redaction import refuse_hidden, scrub
from dydist.user_function import is_added

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCAL = ("file", "local")
"""Protocols of mounted file systems."""
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols of object stores: a URL's first part is a bucket (or container), which dydist never creates."""
SFTP = ("sftp", "ssh")
HOSTS = (*SFTP, "ftp", "smb", "webdav")
"""Protocols whose URLs begin with a host."""
NOT_FOR_CHECKPOINTS = ("http", "https", "github", "data")
"""Protocols of fsspec that cannot store checkpoints: they are read-only, or do not report sizes of files."""
STORES = "dydist.stores"
"""Entry-point group in which packages add storages that are not fsspec's, by protocol."""
_SPELLING = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_BARE_LOGIN = re.compile(r"[^/?#:@]*:(?!\d{1,5}[/?#])[^/?#@]*[/?#].*@")
"""A URL, after its protocol, with a /, ? or # in its password. Does not match a port, or an @ in the path."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "sftp": "sftp", "ssh": "sftp", "webdav": "webdav"}
_EXTRAS |= dict.fromkeys(("az", "abfs", "abfss"), "azure")


def is_url(place: str) -> bool:
    """Whether a place is a URL, and not a path on a mounted file system."""
    return "://" in place and not place.startswith(tuple(f"{name}://" for name in LOCAL))


def local_path(place: str) -> str:
    """The absolute path of a place that is not a URL."""
    protocol, separator, rest = place.partition("://")
    return os.path.abspath(os.path.expanduser(rest if separator and protocol in LOCAL else place))


def check_place(place: str, field: str, *, step_folder: bool = False) -> None:
    """Raise UserError, which names `field`, if `place` is neither a path nor a URL that can be opened here.

    Opens nothing. `step_folder`: it may also be a checkpoint's own folder, `…/step-000001234`.
    """
    if problem := place_problem(place, step_folder=step_folder):
        raise UserError(f"{field}: {problem}")


def place_problem(place: str, *, step_folder: bool = False) -> str | None:
    """What is wrong with a place, what is allowed and what to do; None if nothing is wrong."""
    problem: str | None
    shown = repr(scrub(place))
    protocol, separator, rest = place.partition("://")
    first, colon, _ = place.partition("/")[0].partition(":")
    if not place.strip():
        problem = f"{shown} is not a place; give a folder or a URL such as s3://bucket/runs/a"
    elif place != place.strip() or any(ord(c) < 32 or ord(c) == 127 for c in place):
        problem = f"{shown} has blanks at its ends or control characters in it; take them out"
    elif not separator and colon and not place.startswith("~"):
        near = (_nearest(first) if _SPELLING.fullmatch(first) else None) or "s3"
        problem = f"{shown} is neither a path nor a URL; write {near}://… for a URL, or ./… for a folder of that name"
    elif separator and protocol in LOCAL and not rest:
        problem = f"{shown} names no folder; write {protocol}:///absolute/path, or the path alone"
    elif separator and protocol not in LOCAL:
        problem = _url_problem(protocol, rest, shown)
    else:
        problem = None
    return problem or _inside_a_step(rest if is_url(place) else local_path(place), shown, allowed=step_folder)


def folder_problem(path: str) -> str | None:
    """What is wrong with a path that must be on a mounted file system; None if nothing is wrong."""
    first, colon, rest = path.partition(":")
    if colon and "/" not in first and (rest.startswith("//") or _is_protocol(first)):
        return f"{scrub(path)!r} is a URL, and this must be a path; write ./… for a folder of that name"
    return _inside_a_step(local_path(path), repr(path), allowed=False)


def _url_problem(protocol: str, rest: str, shown: str) -> str | None:
    from fsspec.registry import known_implementations, registry

    if _BARE_LOGIN.match(rest):
        problem = f"{shown}: its password has a /, ? or # in it; write %2F, %3F and %23 for them"
    elif "::" in protocol:
        problem = f"{shown} is a chain of URLs, which go through caches; give the last one alone"
    elif (unknown := protocol not in known_implementations and protocol not in registry) and is_added(
        STORES, protocol
    ):
        return None
    elif unknown:
        near = _nearest(protocol)
        meant = f"; did you mean {near}://?" if near else ""
        problem = f"{shown}: there is no protocol {protocol}://{meant}; use a folder, s3://, sftp:// or one of fsspec's"
    elif not rest.strip("/") or (rest.startswith("/") and protocol in (*BUCKETS, *HOSTS)):
        first = "bucket" if protocol in BUCKETS else "host"
        problem = f"{shown} names no {first}; write {protocol}://{first}/folder"
    elif protocol not in registry and not _is_installed(protocol):
        problem = f"{shown} needs a package that is not installed; {remedy(protocol)}"
    elif protocol in NOT_FOR_CHECKPOINTS:
        problem = (
            f"{shown}: {protocol}:// has no folders for checkpoints and logs; use a folder, s3:// or sftp://"
        )
    else:
        return None
    return problem


def _is_installed(protocol: str) -> bool:
    from fsspec.registry import known_implementations

    return find_spec(str(known_implementations[protocol]["class"]).partition(".")[0]) is not None


def remedy(protocol: str) -> str:
    """How to get the package for a protocol."""
    from fsspec.registry import known_implementations

    if extra := _EXTRAS.get(protocol):
        return f"pip install 'dydist[{extra}]'"
    module = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
    return (
        f"pip install {module}"
        if module not in ("", "fsspec")
        else "install the fsspec implementation for it"
    )


def _is_protocol(name: str) -> bool:
    from fsspec.registry import known_implementations

    return name in known_implementations


def _nearest(protocol: str) -> str | None:
    from fsspec.registry import known_implementations

    lower: str = protocol.lower()
    common = [*BUCKETS, *SFTP, *LOCAL, "memory", "ftp", "webdav", "hdfs", "smb"]
    if lower in common or lower in known_implementations:
        return str(lower)
    for names in (common, list(known_implementations)):
        if close := difflib.get_close_matches(lower, names, n=1, cutoff=0.5):
            return str(close[0])
    return None


def _inside_a_step(path: str, shown: str, *, allowed: bool) -> str | None:
    """The message if `path` lies inside a checkpoint's folder, else None.

    `path`: absolute, or a URL without its protocol. `allowed`: whether it may end with a checkpoint's folder.
    """
    parts = [part for part in (os.path.realpath(path) if path.startswith("/") else path).split("/") if part]
    inside = [part for part in parts if step_of(part) is not None]
    problem = None
    if inside and not (allowed and inside == parts[-1:]):
        problem = (
            f"{shown} lies inside a checkpoint, {inside[0]}; give the folder around it, or another place"
        )
    return problem


def open_filesystem(
    url: str,
    options: Mapping[str, Any] | None = None,
    *,
    field: str = "checkpoint.url",
) -> tuple[AbstractFileSystem, str]:
    """A new connection to the store of a URL, and the path there. Every URL is opened by this function.

    Nothing is cached, since other processes write to the same store. Host keys are checked, and failures are reported
    in bounded time. `options` go to fsspec's file system (endpoint, credentials) and override the defaults.
    Raises UserError, which names `field`, if the URL or the options are wrong or a package is missing, and
    PermissionError if the host key is unknown.
    """
    import fsspec
    from fsspec.dircache import DirCache

    refuse_hidden({field: url, "checkpoint.storage_options": options or {}})
    check_place(url, field, step_folder=True)
    protocol = url.partition("://")[0]
    url, login = _without_login(url)
    defaults = _defaults(protocol)
    settings = {**defaults, **login, **(options or {})}
    if "config_kwargs" in defaults:
        settings["config_kwargs"] = {**defaults["config_kwargs"], **settings["config_kwargs"]}
    settings["skip_instance_cache"] = True
    try:
        if protocol in SFTP:
            system, root = _open_sftp(url, settings)
        elif protocol == "webdav":
            system, root = _open_webdav(url, settings)
        else:
            system, root = fsspec.core.url_to_fs(url, **settings)
    except ImportError as error:
        text = scrub(" ".join(str(error).split()))
        raise UserError(f"{field}: {protocol}:// cannot be used: {text}; {remedy(protocol)}") from None
    except (ValueError, TypeError) as error:
        text = scrub(" ".join(str(error).split()))
        raise UserError(
            f"{field}: {protocol}:// cannot be used: {text}; correct the URL or checkpoint.storage_options"
        ) from None
    # Set directly: some file systems refuse the option, and others do not pass it on.
    system.dircache = DirCache(use_listings_cache=False)
    return system, root


def _without_login(url: str) -> tuple[str, dict[str, str]]:
    """An SFTP or FTP URL without its user and password, and these two decoded (fsspec does not decode them)."""
    parts = urlsplit(url)
    if parts.scheme not in (*SFTP, "ftp") or parts.username is None:
        return url, {}
    login = {"username": unquote(parts.username)}
    if parts.password is not None:
        login["password"] = unquote(parts.password)
    return url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1), login


def _defaults(protocol: str) -> dict[str, Any]:
    """Options with which failures are reported in bounded time."""
    if protocol in ("s3", "s3a"):
        patience = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}
        return {"config_kwargs": {**patience, "max_pool_connections": 16}}  # a survey sends 16 at once
    if protocol in SFTP:
        return {"known_hosts": (), "keepalive_interval": 10, "connect_timeout": 20}
    if protocol in ("az", "abfs", "abfss"):
        return {"connection_timeout": 10, "read_timeout": 30}
    return {"timeout": 30} if protocol in ("ftp", "webdav") else {}


def _open_sftp(url: str, settings: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    """fsspec's own SFTP file system neither reads ~/.ssh/config nor checks host keys; sshfs does both."""
    import asyncssh
    from sshfs import SSHFileSystem

    try:
        system = SSHFileSystem(**{**SSHFileSystem._get_kwargs_from_urls(url), **settings})
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyImportError) as error:
        shown = scrub(url)
        raise PermissionError(f"{shown}: {error}; `ssh` to it once, or add its key to known_hosts") from error
    return system, system._strip_protocol(url)


def _open_webdav(url: str, settings: dict[str, Any]) -> tuple[AbstractFileSystem, str]:
    """webdav4 needs the server as the option `base_url`. Without it, use the URL's host, over TLS."""
    from webdav4.fsspec import WebdavFileSystem

    parts = urlsplit(url)
    root = parts.path.strip("/")
    if "base_url" in settings:
        root = url.partition("://")[2].strip("/")
    elif parts.username is not None:
        settings.setdefault("auth", (unquote(parts.username), unquote(parts.password or "")))
    system = WebdavFileSystem(**{"base_url": f"https://{parts.netloc.rpartition('@')[2]}", **settings})
    weakref.finalize(system, system.client.http.close)
    return system, root
