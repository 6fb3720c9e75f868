from __future__ import annotations

import sys

from helpers.support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "docs" / "benchmarks"))
