"""Chooses the storage of a path or URL. Only this module does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dydist.storage.local import LocalStorage
from dydist.storage.places import STORES, is_url, local_path
from dydist.storage.protocol import Storage
from dydist.user_function import load_added


def open_storage(
    url: str, options: Mapping[str, Any] | None = None, *, field: str = "checkpoint.url"
) -> Storage:
    """The storage at a path or an fsspec URL. Opens no connection yet. `field`: the field that errors name."""
    if not is_url(url):
        return LocalStorage(local_path(url))
    from fsspec.registry import known_implementations, registry

    protocol = url.partition("://")[0]
    known = protocol in known_implementations or protocol in registry
    if not known and (opener := load_added(STORES, protocol)) is not None:
        storage: Storage = opener(url, dict(options or {}))
        return storage
    from dydist.storage.remote import RemoteStorage

    return RemoteStorage(url, options or {}, field=field)
