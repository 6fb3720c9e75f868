"""`dydist check`: whether a configuration trains to the same bits on any number of processes, stopped and resumed.

- `runs`: the short runs; `start`: one process of them; `recorder`: digests of what it computes
- `difference`: the first thing in which two runs differ; `coupling`: modules that mix the images of a batch
- `verdict`: all of it together
"""

from dydist.check.runs import CheckOptions, EngineName, Plan
from dydist.check.verdict import Row, Verdict, check

__all__ = ["CheckOptions", "EngineName", "Plan", "Row", "Verdict", "check"]
