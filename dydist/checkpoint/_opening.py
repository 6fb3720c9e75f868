"""Opens a store for a person who waits: transient failures are retried for a while."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dydist.config import CheckpointConfig
from dydist.storage.opening import open_storage
from dydist.storage.places import check_place
from dydist.storage.retry import Retrying
from dydist.text.redaction import fill_hidden, register_secrets

PATIENCE_S = 60.0
"""Seconds for which a failing store is retried before the error is reported."""


def open_patiently(
    url: str, options: Mapping[str, Any], *, field: str, on_retry: Callable[[str], None]
) -> Retrying:
    """Open the store at a path or URL; each failure that is retried is told to `on_retry`.

    DYDIST_SECRETS replaces `<hidden>` values, as for a run. Raises UserError, which names `field`.
    """
    values = fill_hidden({"checkpoint": {"url": url, "storage_options": options}}, os.environ)["checkpoint"]
    url, options = values["url"], values["storage_options"]
    register_secrets(CheckpointConfig(url=url, storage_options=dict(options)))
    check_place(url, field)
    return Retrying(
        open_storage(url, options),
        deadline=math.inf,
        clock=time.monotonic,
        cancelled=threading.Event(),
        on_retry=on_retry,
        patience_s=PATIENCE_S,
    )
