"""Running a program to its exit: safe standard streams, and one way to exit. Does not import torch.

Threads of torch, gloo, DeepSpeed and compilers may abort the interpreter while it shuts down ("terminate called
without an active exception"), which turns the exit code of a finished run from 0 into 134. So a process waits for
threads and runs exit handlers as Python does, and then calls `os._exit`.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from dydist.errors import EXIT_DONE, EXIT_ERROR, EXIT_STOPPED
from dydist.process.stop import ignore_signals
from dydist.text.display import show
from dydist.text.redaction import register_environment, scrub


def run_to_end(function: Callable[[], int | None], *, ignore_stream_errors: bool = False) -> NoReturn:
    """Call `function` and exit with the code that it returns, or that Python gives the exception that it raises.

    If the reader of standard output closes it (`| head`), the process exits quietly with code 0. With
    `ignore_stream_errors`, a failed write to a standard stream (closed pipe, lost terminal, full disk) is ignored.
    """
    prepare_streams(ignore_stream_errors=ignore_stream_errors)
    try:
        code = function()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:
        code = EXIT_DONE if _reader_closed(error) else _exit_code(error)
    exit_process(EXIT_DONE if code is None else code)


def exit_process(code: int) -> NoReturn:
    """Exit the process, ignoring further signals. All files must be closed by now."""
    ignore_signals()
    try:
        if code in (
            EXIT_DONE,
            EXIT_STOPPED,
        ):  # after a failure, other processes may be gone, and this would wait for them
            close_process_group()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for non-daemon threads, as Python does
        atexit._run_exitfuncs()
    except BaseException as error:
        code = code or _exit_code(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            continue
        except (OSError, ValueError):
            code = code or EXIT_ERROR
    os._exit(code)


def prepare_streams(*, ignore_stream_errors: bool = False) -> None:
    """Make the standard streams safe to print to: open, and able to encode every character.

    COLUMNS or LINES with an impossible value (0, or not a number) would make rich fail or print nothing: they are
    unset. A closed descriptor is opened on the null device; otherwise the next file opened would take its number and
    receive what libraries print. A character that the encoding lacks becomes a question mark. Tracebacks are printed
    without secrets.
    """
    sys.excepthook = _without_secrets
    threading.excepthook = lambda found: _without_secrets(
        found.exc_type, found.exc_value or found.exc_type(), found.exc_traceback
    )
    register_environment(os.environ)
    for name, least in (("COLUMNS", 20), ("LINES", 2)):
        text = os.environ.get(name, "")
        if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or int(text) < least:
            os.environ.pop(name, None)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            if ignore_stream_errors:
                stream = _tolerant(stream)
        setattr(sys, name, stream)


def _without_secrets(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception as Python does, without credentials that libraries quote."""
    sys.stderr.write(scrub("".join(traceback.format_exception(kind, error, trace))))


class _TolerantFile(io.FileIO):
    """Accepts every write; drops all data from the first failed write on."""

    _failed = False

    def write(self, data: Any, /) -> int:
        if not self._failed:
            try:
                return super().write(data) or 0
            except OSError:
                self._failed = True
        return memoryview(data).nbytes


def _tolerant(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    raw = _TolerantFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _reader_closed(error: BaseException) -> bool:
    """Whether the reader closed standard output. rich turns that error into SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(cause, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))  # a pipe without a reader


def _exit_code(error: BaseException) -> int:
    """Print an exception as Python does, and return the exit code that Python gives it."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or EXIT_DONE
        show(error.code, lines=True, file=sys.stderr)
        return EXIT_ERROR
    sys.excepthook(type(error), error, error.__traceback__)
    return EXIT_ERROR


_KEPT_GROUPS: list[object] = []


def has_closed_process_group() -> bool:
    """Whether `close_process_group` has destroyed a group in this process."""
    return bool(_KEPT_GROUPS)


def close_process_group() -> None:
    """Destroy all process groups, but keep a reference to each.

    DDP's reducer may hold the last reference to a group. If gloo's group is freed while the interpreter's lock is
    held, it joins its thread, which may wait for that lock to free a tensor: a deadlock.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        _KEPT_GROUPS.extend(
            distributed.distributed_c10d._world.pg_map
        )  # all groups; torch has no public list
        distributed.destroy_process_group()
