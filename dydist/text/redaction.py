"""Removes secrets from files, logs, errors and command lines.

All output goes through one of three functions: `redacted` for a configuration, `redact` for storage options, `scrub`
for any text. They replace each secret by `HIDDEN`, which is never used as a credential: `fill_hidden` replaces it by
the secret from the environment variable DYDIST_SECRETS, `refuse_hidden` raises if one is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from dydist.errors import UserError
from dydist.text.strict import TextError, load_json

T = TypeVar("T")

HIDDEN = "<hidden>"
"""Replaces a secret in all output."""
SECRETS = "DYDIST_SECRETS"
"""Environment variable with a JSON object of fields and values that replace HIDDEN in a configuration."""

_OPEN_OPTIONS = frozenset({
    "endpoint_url", "region_name", "region", "profile", "anon", "use_ssl", "verify", "port", "host", "username",
    "project", "account_name", "requester_pays", "default_block_size", "default_fill_cache", "default_cache_type",
    "use_listings_cache", "max_concurrency", "fixed_upload_size", "client_kwargs", "config_kwargs", "s3", "retries",
    "connect_timeout", "read_timeout", "max_attempts", "signature_version", "addressing_style", "config", "mode",
    "known_hosts", "client_keys", "max_sessions", "keepalive_interval", "keepalive_count_max", "timeout",
})  # fmt: skip
"""Storage options whose text is shown. Any other text may be a secret, and is hidden."""
_LOGIN_SCHEMES = frozenset(
    "sftp ssh ftp ftps smb hdfs webhdfs abfs abfss az adl wasb wasbs s3 s3a gs gcs memory file local".split()
)
"""URL schemes in which a lone name before @ is a user or a container. In others it may be a token."""
_KNOWN_AT_LEAST = 6
"""Minimum length of a secret that `scrub` finds by its value. Shorter values occur in too many harmless texts."""

# Logins in URLs. A password extends to the last @ of its word, since it may contain @, /, ? and # that should have been
# percent-encoded. If its word has no @, and the text after the colon is not a port, the password contains blanks.
_USER = r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s/:?#]*):"
_LOGIN = re.compile(rf"{_USER}(?:\S*@|(?!\d{{0,5}}(?:[/?#\s,;:.'\")\]}}>]|$))[^\n]*@)")
_WHOLE_LOGIN = re.compile(rf"{_USER}.*@", re.DOTALL)
_LONE_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s/@:?#]+)@")
_ENCODED_LOGIN = re.compile(r"(?i)(%3A%2F%2F(?:(?!%2F|%3A)[^\s/&])*%3A)[^\s&]*%40")

# Names that introduce a secret, and the forms in which name and value stand together.
_LONG_NAME = (
    r"[A-Za-z0-9_.-]*?(?:passw(?:or)?d|passphrase|pwd|secret|token|jwt|credentials?|authorization"
    r"|(?:api|access|account|shared|private|secret|signing|encryption|sas|storage|master)[_-]?key"
    r"|connection[_-]?string|signature)(?:[_-]?(?:id|key|value|\d+))?"
)
_NAME = rf"(?<![A-Za-z0-9_])(?:{_LONG_NAME}|x-(?:amz|goog)-[a-z-]+|sig|sas|auth|key|pass)"
_QUOTED = r"b?(?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")"
_VALUE = (
    rf"(?!['\"]?{HIDDEN}|['\"]…)(?:(?:{_QUOTED}|\[(?:{_QUOTED}|[^\]'\"])*\])(?=[\s,;&)\]}}]|$)|\S[^&;\s]*)"
)
_PAIRS = (
    re.compile(rf"(?i)({_NAME}=)(?:{_VALUE})"),  # query, connection string, keyword argument
    re.compile(rf"(?i)({_NAME} = )(?:{_VALUE})"),  # INI, TOML
    re.compile(rf"(?i)(['\"]{_NAME}['\"]\s*:\s*)(?:{_VALUE})"),  # JSON, a dictionary's repr
    re.compile(rf"(?i)((?<![A-Za-z0-9_]){_LONG_NAME}:\s+(?:basic\s+|bearer\s+)?)(?:{_VALUE})"),  # YAML, HTTP
    re.compile(rf"(?i)({_NAME}%3D)(?:(?!%26)[^&;\s'\"])+"),  # a query inside a query
)
_QUERY_VALUE = re.compile(rf"(?i)((?<=[?&]){_NAME}=)[^&][^&#]*")
"""In a whole URL: a semicolon and a blank belong to the value."""
_TOKENS = re.compile(
    r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"  # AWS
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web token
    r"|\b(?:gh[pousr]|hf|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}|\bAIza[\w-]{35}|\bya29\.[\w-]{16,}"
    r"|(?<=[Bb]earer )[\w.~+/=-]{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)

_NAME_ALONE = re.compile(rf"(?i){_NAME}")

_known: set[str] = set()


def scrub(text: str) -> str:
    """Remove the secrets from any text: passwords in URLs, values of names such as `token=`, keys and tokens of known
    formats, and the secrets of this process's configuration (`register_secrets`), encoded or not."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = _exactly(secret).sub(HIDDEN, text)
    text = _LOGIN.sub(_without_password, text)
    return _hide_rest(text)


def redact_url(url: str) -> str:
    """A URL without its secrets. Text that is not a URL is returned unchanged."""
    if "://" not in url:
        return url
    without_login = _WHOLE_LOGIN.sub(_without_password, url)
    return _hide_rest(_QUERY_VALUE.sub(rf"\1{HIDDEN}", without_login))


def redact(options: Mapping[str, Any], *, open_: bool = False) -> dict[str, Any]:
    """A copy of fsspec storage options in which texts that may be secret are HIDDEN.

    `open_`: these are other options, in which only texts with a secret's name are HIDDEN.
    """
    return {
        key: _redact_value(
            value, shown=not is_secret_name(key) if open_ else key in _OPEN_OPTIONS, open_=open_
        )
        for key, value in options.items()
    }


def is_open(field: dataclasses.Field[Any]) -> bool:
    """Whether a configuration's field is a mapping of plain options, not of credentials."""
    return bool(field.metadata.get("open"))


def redacted(config: T) -> T:
    """A copy of a configuration in which every secret is HIDDEN."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = redacted(value)
        elif isinstance(value, Mapping):
            changes[field.name] = redact(value, open_=is_open(field))
        elif isinstance(value, str):
            changes[field.name] = redact_url(value)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def secrets_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """The secrets of a configuration by field, in the form of DYDIST_SECRETS: those that `redacted` hides."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= secrets_of(value, f"{path}.")
        elif isinstance(value, Mapping):
            if hidden := _only_hidden(value, redact(value, open_=is_open(field))):
                found[path] = hidden
        elif isinstance(value, str) and redact_url(value) != value:
            found[path] = value
    return found


def register_secrets(config: Any) -> None:
    """Make `scrub` also hide the secrets of `config` by value, from now on in this process."""
    _add(secrets_of(config))


def register_environment(environ: Mapping[str, str]) -> None:
    """Make `scrub` hide the values of environment variables with a secret's name, and DYDIST_SECRETS."""
    _add([value for name, value in environ.items() if is_secret_name(name) and not value.startswith("/")])
    if SECRETS in environ:
        with contextlib.suppress(ValueError, RecursionError):
            # only the values, also of duplicate names, about which `fill_hidden` raises
            _add(json.loads(environ[SECRETS], object_pairs_hook=lambda pairs: [value for _, value in pairs]))


def _add(secrets: Any) -> None:
    for secret in _texts(secrets):
        for part in _parts_of_url(secret) if "://" in secret else [secret]:
            spellings = {part, urllib.parse.unquote(part)}
            for form in (
                urllib.parse.quote_plus,
                lambda text: urllib.parse.quote(text, safe=""),
                repr,
                json.dumps,
            ):
                spellings |= {form(one).strip("'\"") for one in (part, urllib.parse.unquote(part))}
            _known.update(one for one in spellings if len(one) >= _KNOWN_AT_LEAST and HIDDEN not in one)


def fill_hidden(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Replace HIDDEN in nested sections of a configuration by the secrets of DYDIST_SECRETS.

    Raises UserError if the variable is malformed, or gives another URL than the hidden one.
    """
    text = environ.get(SECRETS)
    return _filled(values, _parse_secrets(text), "") if text else dict(values)


def refuse_hidden(values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError if a value is, or contains, HIDDEN."""
    if names := sorted(hidden_names(values, prefix)):
        field = names[0]
        raise UserError(
            f"{field}: {HIDDEN} stands for a secret that is never written down; give the secret itself as a flag, or "
            f"in the environment: {SECRETS}='{json.dumps(_example(names))}'"
        )


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable or an option suggests a secret."""
    return _NAME_ALONE.fullmatch(name) is not None


def hidden_names(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of the HIDDEN values in nested values."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from hidden_names(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from hidden_names(value, prefix)
    elif isinstance(values, str) and HIDDEN in values:
        yield prefix


def _without_password(match: re.Match[str]) -> str:
    scheme, user = match[1], match[2]
    return f"{scheme}://{user}:{HIDDEN}@" if scheme.lower() in _LOGIN_SCHEMES else f"{scheme}://{HIDDEN}@"


def _hide_rest(text: str) -> str:
    """Hide secrets other than login passwords: lone tokens, encoded logins, named values, known token formats."""
    text = _LONE_LOGIN.sub(
        lambda match: match[0] if match[1].lower() in _LOGIN_SCHEMES else f"{match[1]}://{HIDDEN}@", text
    )
    text = _ENCODED_LOGIN.sub(rf"\1{HIDDEN}%40", text)
    for pair in _PAIRS:
        text = pair.sub(rf"\1{HIDDEN}", text)
    return _TOKENS.sub(HIDDEN, text)


def _exactly(secret: str) -> re.Pattern[str]:
    """Matches the secret, but not within a longer word."""
    before = r"(?<![A-Za-z0-9])" if secret[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if secret[-1].isalnum() else ""
    return re.compile(f"{before}{re.escape(secret)}{after}")


def _parts_of_url(url: str) -> Iterator[str]:
    """The secrets in a URL: its password, and secret values in its query."""
    if (login := _WHOLE_LOGIN.search(url)) is not None:
        yield url[login.end(2) + 1 : login.end() - 1]
    for pair in (*_PAIRS, _QUERY_VALUE):
        yield from (url[match.end(1) : match.end()] for match in pair.finditer(url))


def _redact_value(value: Any, *, shown: bool, open_: bool) -> Any:
    if isinstance(value, Mapping):
        return redact(value, open_=open_)
    if isinstance(value, list | tuple):
        return [_redact_value(one, shown=shown, open_=open_) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return scrub(value) if shown and isinstance(value, str) else HIDDEN


def _only_hidden(value: Any, shown: Any) -> Any:
    """The parts of `value` that are changed in `shown`."""
    if isinstance(value, Mapping):
        parts = {key: _only_hidden(one, shown[key]) for key, one in value.items()}
        return {key: one for key, one in parts.items() if one is not None} or None
    return None if shown == value or (isinstance(value, tuple) and shown == list(value)) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _parse_secrets(text: str) -> dict[str, Any]:
    try:
        values = load_json(text)
        if not isinstance(values, dict):
            raise TextError("it is no object")
    except TextError as error:
        raise UserError(
            f"{SECRETS}: not a JSON object of fields and values ({error}); give one such as "
            f"{json.dumps(_example(['checkpoint.storage_options.secret']))}"
        ) from None
    return values


def _filled(values: Mapping[str, Any], secrets: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path in secrets:
            result[name] = _fill_value(value, secrets[path], path)
        elif isinstance(value, Mapping):
            result[name] = _filled(value, secrets, f"{path}.")
        else:
            result[name] = value
    return result


def _fill_value(value: Any, secret: Any, path: str) -> Any:
    if isinstance(value, Mapping) and isinstance(secret, Mapping):
        return {
            key: _fill_value(one, secret[key], f"{path}.{key}") if key in secret else one
            for key, one in value.items()
        }
    if not any(hidden_names(value, path)):
        return value
    if (
        isinstance(value, str)
        and value != HIDDEN
        and (not isinstance(secret, str) or redact_url(secret) != value)
    ):
        raise UserError(f"{path}: {SECRETS} gives another URL than {value}; give that one, with its password")
    return secret


def _example(names: list[str]) -> dict[str, Any]:
    """An example of DYDIST_SECRETS for these hidden fields."""
    example: dict[str, Any] = {}
    for name in names:
        section, _, key = name.rpartition(".")
        if name.count(".") >= 2:  # an option of a mapping
            field, _, rest = name.partition(".storage_options.")
            if rest:
                example.setdefault(f"{field}.storage_options", {})[rest] = "…"
                continue
            example.setdefault(section, {})[key] = "…"
        else:
            example[name] = "…"
    return example
