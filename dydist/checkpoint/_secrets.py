"""Keeping secrets out of files, logs and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dydist.config_reader import HIDDEN

_OPEN_OPTIONS = frozenset({
    "endpoint_url", "region_name", "region", "profile", "anon", "use_ssl", "verify", "port", "host", "username",
    "project", "account_name", "requester_pays", "default_block_size", "default_fill_cache", "default_cache_type",
    "use_listings_cache", "max_concurrency", "fixed_upload_size", "client_kwargs", "config_kwargs", "s3", "retries",
    "connect_timeout", "read_timeout", "max_attempts", "signature_version", "addressing_style", "config",
    "known_hosts", "client_keys", "max_sessions", "keepalive_interval", "keepalive_count_max", "timeout",
})  # fmt: skip
"""What may be shown. Anything else might be a secret under a name nobody thought of, and is hidden."""

_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_SIGNED = re.compile(
    r"(?i)\b((?:x-amz-[a-z-]+|signature|sig|token|key|secret|password|awsaccesskeyid)=)[^&\s'\"]+"
)


def redact(storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of fsspec storage options that may be written down: values that might be secret are "<hidden>"."""
    return {key: _redact_value(key, value) for key, value in storage_options.items()}


def _redact_value(key: str, value: Any) -> Any:
    if key not in _OPEN_OPTIONS:
        return HIDDEN
    if isinstance(value, Mapping):
        return redact(value)
    return scrub(value) if isinstance(value, str) else value


def scrub(text: str) -> str:
    """Text without what URLs may carry: user and password before an @, signatures and tokens in a query."""
    return _SIGNED.sub(rf"\1{HIDDEN}", _USER_INFO.sub("", text))
