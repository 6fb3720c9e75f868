"""Exit codes of a run, and the errors that choose one."""

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75
"""Stopped early with everything saved: run the same command again (BSD's EX_TEMPFAIL)."""


class UserError(Exception):
    """The configuration or the input is wrong: one line that says what, what is allowed, what to do. Exit 2."""


class DivergedError(Exception):
    """The loss is not finite, or processes no longer hold the same weights. Nothing is saved. Exit 1."""
