"""What a run shows and writes while it runs. Knows nothing of engines: it is handed records (dydist.records).

- `build_monitors`: everything a configuration asks for; `build_terminal`: what is shown.
  `NullMonitor`: for every process but 0.
- `Monitors`: hands records to many, and lets none of them stop training.
- `outputs`: where records go (`JsonLines`, `StatusFile`, `TerminalProgress`, `LineProgress`, `QuietProgress`,
  TensorBoard).
- `probes` (imports torch): what is measured inside the loop; `NullProbe` measures nothing.
- `viewing`: looking at TensorBoard logs anywhere. `report`: a page about runs, from what they left.
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
