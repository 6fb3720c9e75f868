"""The end of a process: its standard streams made safe at the start, and one way out. Knows nothing of torch.

Threads that torch, gloo, DeepSpeed and compilers leave behind abort an interpreter that winds down ("terminate called
without an active exception"), which turns a finished run's 0 into 134. So a process that ran to its end does what
Python does at exit (waits for threads, calls what was registered) and then ends at once.
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
    """Call `function` and end the process with the code that it returns, whatever it raises.

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
    """End the process, whatever signals still come. Everything of ours is closed and written by now."""
    ignore_signals()
    try:
        if code in (
            EXIT_DONE,
            EXIT_STOPPED,
        ):  # after a failure the others may be gone, and would be waited for
            close_process_group()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons, as Python does
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
    """Make the standard streams safe to print to: open, and able to show every character in some way.

    COLUMNS or LINES that no terminal has (0, or no number) would make rich print nothing, or fail: they are unset.
    A closed descriptor is opened on the null device, or the next file that is opened would take its number, and what
    a library prints would go there. A character that the locale's encoding lacks becomes a question mark. Tracebacks
    are printed without secrets.
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
    """Print an exception as Python does, without what libraries quote of credentials."""
    sys.stderr.write(scrub("".join(traceback.format_exception(kind, error, trace))))


class _TolerantFile(io.FileIO):
    """Takes every write; from the first that fails on, what is written is dropped."""

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
    """Whether standard output was closed on us. rich turns that into SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(cause, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))  # a pipe that nobody reads


def _exit_code(error: BaseException) -> int:
    """The exit code that Python gives an exception, which is printed as Python prints it."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or EXIT_DONE
        show(error.code, lines=True, file=sys.stderr)
        return EXIT_ERROR
    sys.excepthook(type(error), error, error.__traceback__)
    return EXIT_ERROR


_KEPT_GROUPS: list[object] = []


def close_process_group() -> None:
    """Leave all process groups, and never free them.

    DDP's reducer, or a caller, holds the last reference to a group that was left. Freed with the interpreter's lock
    held, gloo's group joins its thread, which may wait for that lock to free a tensor: the process would hang.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        _KEPT_GROUPS.extend(
            distributed.distributed_c10d._world.pg_map
        )  # of all groups; torch has no public list
        distributed.destroy_process_group()
