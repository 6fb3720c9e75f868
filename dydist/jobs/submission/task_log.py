"""The output of a job's tasks, of srun and of SLURM, outside dydist's own log of each start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_START = re.compile(r"^start (\d+) of job \S+ on node ", re.MULTILINE)
"""The first line of each start (dydist.jobs.node.task writes it)."""
_KILLED = {
    re.compile(
        r"^slurmstepd\S*: error: (.*exceeded memory limit.*|.*oom.kill.*)$", re.IGNORECASE | re.MULTILINE
    ): "killed by SLURM: {}",
    re.compile(
        r"^slurmstepd\S*: error: \*\*\* .* CANCELLED AT \S+ DUE TO ([A-Z ]+)", re.MULTILINE
    ): "killed by SLURM, due to {}",
}
"""slurmstepd's messages about a kill, most specific first, and how dydist reports them."""


def task_log(record: Mapping[str, Any]) -> str:
    """The output of the tasks before dydist's log began: errors of the environment, the container, or srun."""
    return "".join(text for text in _texts(record))


def scheduler_words(record: Mapping[str, Any], start: int, *, decided: bool = False) -> str:
    """SLURM's message on why it killed a start, or "".

    `decided`: the nodes decided, so the batch script may have requeued the job. That message, which is about the job
    and not about its step, is ignored.
    """
    for pattern, form in _KILLED.items():
        for text in _texts(record):
            marks = [(int(match.group(1)), match.start()) for match in _START.finditer(text)]
            begins = [place for number, place in marks if number == start]
            if not begins:
                continue
            ends = [place for number, place in marks if number > start]
            for found in pattern.finditer(text, begins[-1], min(ends, default=len(text))):
                if decided and "*** JOB " in found[0] and found[0].endswith("JOB REQUEUE "):
                    continue
                words = found.group(1).strip()
                return form.format(words.lower() if words.isupper() else words)
    return ""


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    """The text of each task's file, in order."""
    for path in sorted(Path(record["task_logs"]).glob(f"{record['job']}_*_log.out")):
        yield path.read_text(encoding="utf-8", errors="replace")
