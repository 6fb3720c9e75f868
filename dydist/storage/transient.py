"""Classifies errors as transient or permanent, by HTTP status, errno or FTP reply of the error and its causes."""

from __future__ import annotations

import errno
import ftplib
import socket
from collections.abc import Iterator

from dydist.errors import CheckpointError, UserError
from dydist.text.redaction import scrub

_PERMANENT_TYPES = (
    CheckpointError,
    UserError,
    ImportError,
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
_PERMANENT_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST, errno.EFBIG, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV,
}  # fmt: skip
_PERMANENT_NAMES = {
    # Errors before any answer, which have neither a status nor an errno: botocore, asyncssh
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "UnauthorizedSSOTokenError", "ParamValidationError", "InvalidEndpointConfigurationError",
    "InvalidRegionError", "PermissionDenied", "HostKeyNotVerifiable", "KeyImportError", "KeyExchangeFailed",
    "ProtocolNotSupported", "SFTPPermissionDenied", "SFTPNoSuchFile", "SFTPNoSuchPath", "SFTPWriteProtect",
    "SFTPNoSpaceOnFilesystem", "SFTPQuotaExceeded", "SFTPUnknownPrincipal",
    # webdav4's, in place of the status
    "ResourceNotFound", "ResourceConflict", "ForbiddenOperation", "ResourceAlreadyExists", "InsufficientStorage",
}  # fmt: skip
_TRANSIENT_NAMES = {"FileExpired"}
"""s3fs, with HTTP 412: the file was replaced before the read, as a lease is at each heartbeat."""
_STORE_MODULES = {
    *(
        "botocore",
        "aiobotocore",
        "aiohttp",
        "asyncssh",
        "urllib3",
        "requests",
        "google",
        "gcsfs",
        "azure",
        "ftplib",
    ),
    *("httpx", "httpcore", "webdav4"),
}
"""Packages whose errors come from a store or the network, and are transient unless known otherwise."""
_PERMANENT_HTTP = {400, 401, 403, 404, 405, 409, 410, 411, 412, 413, 414, 416, 422, 423, 451, 501, 505, 507}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
"""Codes that S3 sends with several statuses."""
_REFUSED = {401, 403, 530, 532}
"""HTTP: not authenticated, not allowed; FTP: not logged in, needs an account."""


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later: time-outs, 5xx, throttling, dropped connections, unknown I/O.

    False for refused credentials, missing buckets, full or read-only disks, and programming errors.
    """
    if isinstance(error, _PERMANENT_TYPES):
        return False
    if is_garbled(error):
        return True
    for one in chain(error):
        if type(one).__name__ in _TRANSIENT_NAMES:
            return True
        if isinstance(one, PermissionError) or type(one).__name__ in _PERMANENT_NAMES:
            return False
        if (status := http_status(one)) is not None:
            return status not in _PERMANENT_HTTP
        if (reply := ftp_reply(one)) is not None:
            return reply < 500
    for one in chain(error):
        if isinstance(one, socket.gaierror):
            return one.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        if isinstance(one, TimeoutError | ConnectionError | EOFError):
            return True
        if isinstance(one, OSError):
            return one.errno not in _PERMANENT_ERRNOS
        if type(one).__module__.partition(".")[0] in _STORE_MODULES:
            return True
    return False


def is_refused(error: BaseException) -> bool:
    """Whether a store or a disk denies access, or does not accept the credentials."""
    return any(
        isinstance(one, PermissionError)
        or "Credential" in type(one).__name__
        or http_status(one) in _REFUSED
        or ftp_reply(one) in _REFUSED
        for one in chain(error)
    )


def is_of_store(error: BaseException) -> bool:
    """Whether an error comes from a store or the network, and not from a mistake in a program."""
    return any(type(one).__module__.partition(".")[0] in _STORE_MODULES for one in chain(error)) or (
        isinstance(error, ValueError | TypeError) and _raised_in(error) in _STORE_MODULES
    )


def _raised_in(error: BaseException) -> str:
    """The package whose code raised an error."""
    trace, name = error.__traceback__, ""
    while trace is not None:
        name, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return name.partition(".")[0]


def is_garbled(error: BaseException) -> bool:
    """Whether the response was not HTTP, such as excess bytes of an earlier response on a persistent connection."""
    return any(type(one).__module__ == "aiohttp.http_exceptions" for one in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, newest first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def http_status(error: BaseException) -> int | None:
    """The HTTP status (400 or more) of an error of any library, or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        if response.get("Error", {}).get("Code") in _THROTTLED:
            return 503
        return _refusal(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    # aiohttp: status; azure, webdav4, httpx: status_code; google: code
    for holder in (error, response):
        for name in ("status", "status_code", "code"):
            if holder is not None and (status := _refusal(getattr(holder, name, None))) is not None:
                return status
    return None


def _refusal(status: object) -> int | None:
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status)
    return int(status) if isinstance(status, int) and 400 <= status < 600 else None


def ftp_reply(error: BaseException) -> int | None:
    """The code (400 or more) of an FTP reply: 4xx is transient, 5xx permanent; None for other errors."""
    digits = str(error)[:3]
    if not isinstance(error, ftplib.Error) or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if int(digits) >= 400 else None


def explain(error: BaseException | None) -> str:
    """An error as one line, without secrets."""
    if error is None:
        return "unknown"
    lines = str(error).splitlines()
    text = " ".join((lines[0] if len(lines) > LINES else str(error)).split())
    known = isinstance(error, CheckpointError | UserError)
    return scrub(
        text if known and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


LINES = 4
"""Of a longer error text, only the first line is shown; the rest is a protocol dump."""
