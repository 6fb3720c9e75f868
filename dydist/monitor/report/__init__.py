"""`dydist report`: an HTML file about one or several runs, and its curves as PNG files.

- `read_run`, `RunData`, `group_runs`: reading run folders (`runs`)
- `page`: the HTML document (`page`, with `svg`, `heat`, `timeline`, `assets`)
- `charts`, `Chart`: the curves (`charts`); `write_pngs`: drawing them with matplotlib (`png`)
"""

from dydist.monitor.report.charts import Chart, charts
from dydist.monitor.report.page import page
from dydist.monitor.report.png import write_pngs
from dydist.monitor.report.runs import RunData, group_runs, read_run

__all__ = ["Chart", "RunData", "charts", "group_runs", "page", "read_run", "write_pngs"]
