"""`dydist report`: one HTML file about one or several runs, and the same curves as PNG files.

- `read_run`, `RunData`, `group_runs`: what run folders hold (`runs`)
- `page`: the HTML document (`page`, with `svg`, `heat`, `timeline`, `assets`)
- `charts`, `Chart`: what is drawn (`charts`); `write_pngs`: the same for matplotlib (`png`)
"""

from dydist.monitor.report.charts import Chart, charts
from dydist.monitor.report.page import page
from dydist.monitor.report.png import write_pngs
from dydist.monitor.report.runs import RunData, group_runs, read_run

__all__ = ["Chart", "RunData", "charts", "group_runs", "page", "read_run", "write_pngs"]
