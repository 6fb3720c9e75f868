"""What a run shows and writes while it runs. Knows nothing of engines: it is handed records (dydist.records).

- `build_monitors`: everything a configuration asks for; `build_terminal`: what is shown.
  `NullMonitor`: for every process but 0.
- `Monitors`: hands records to many, and lets none of them stop training.
- `JsonLines`: metrics.jsonl and events.jsonl. `StatusFile`: status.json. `alerts`: what a person would want to know.
  `prometheus`: a file for node exporter. `files`, `hardware`: how and with what they are written.
- `TerminalProgress`, `LineProgress`, `QuietProgress`: the terminal, a log file, almost nothing; of `text` and `pace`.
- `tensorboard.TensorBoard` (imports torch) with `eventlog`, `layout`, `images`; `log_owner`: whose log it is;
  `shipping`: its log on a remote store; `viewing`: looking at it.
- `probe.RunProbe` (imports torch): what is measured inside the loop, by `attention`, `weights`, `timing`, `stragglers`,
  `evaluation`, `profiling` and `graph`; `NullProbe` measures nothing.
- `report`: a page about runs, from what they left.
"""

from dydist.monitor.build import build_monitors, build_terminal
from dydist.monitor.fanout import Monitors
from dydist.monitor.jsonlines import JsonLines, read_lines
from dydist.monitor.null import NullMonitor, NullProbe
from dydist.monitor.progress import LineProgress, QuietProgress, TerminalProgress
from dydist.monitor.status import StatusFile

__all__ = [
    "JsonLines",
    "LineProgress",
    "Monitors",
    "NullMonitor",
    "NullProbe",
    "QuietProgress",
    "StatusFile",
    "TerminalProgress",
    "build_monitors",
    "build_terminal",
    "read_lines",
]
