"""The display and the logs of a run, made from records (dydist.records). Independent of engines.

- `build_monitors`: all monitors of a configuration; `build_terminal`: those of the terminal. `NullMonitor`: for
  processes other than 0.
- `Monitors`: passes records to several monitors, none of which can stop training.
- `outputs`: where records go (`JsonLines`, `StatusFile`, `TerminalProgress`, `LineProgress`, `QuietProgress`,
  TensorBoard).
- `trackers`: sends the TensorBoard log to experiment trackers, each from a process of its own.
- `probes` (imports torch): measurements inside the loop; `NullProbe` measures nothing.
- `viewing`: TensorBoard on local and remote logs. `report`: an HTML page about runs, from their folders.
- Inside: `build`, `fanout`, `null`.
"""

from dydist.monitor.build import build_monitors, build_terminal
from dydist.monitor.fanout import Monitors
from dydist.monitor.null import NullMonitor, NullProbe
from dydist.monitor.outputs.jsonlines import JsonLines, read_lines
from dydist.monitor.outputs.progress import LineProgress, QuietProgress, TerminalProgress
from dydist.monitor.outputs.status import StatusFile

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
