"""What a job's tasks, srun and SLURM itself printed, beside and before our own log of each start."""

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
"""What slurmstepd tells of a kill, the most telling first, and how we tell it."""


def task_log(record: Mapping[str, Any]) -> str:
    """What the tasks printed before our own log began: errors of the environment, of the container, of srun."""
    return "".join(text for text in _texts(record))


def scheduler_words(record: Mapping[str, Any], start: int) -> str:
    """That SLURM killed a start, and why, in its own words; empty where it told nothing."""
    for pattern, form in _KILLED.items():
        for text in _texts(record):
            marks = [(int(match.group(1)), match.start()) for match in _START.finditer(text)]
            begins = [place for number, place in marks if number == start]
            if not begins:
                continue
            ends = [place for number, place in marks if number > start]
            if found := pattern.search(text, begins[-1], min(ends, default=len(text))):
                words = found.group(1).strip()
                return form.format(words.lower() if words.isupper() else words)
    return ""


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    """The file of each task, in order."""
    for path in sorted(Path(record["task_logs"]).glob(f"{record['job']}_*_log.out")):
        yield path.read_text(encoding="utf-8", errors="replace")
