"""One process of a run in which rank 1 is held up in every backward pass, as by a hot or busy node."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from dydist.engine.core import TorchEngine
from dydist.train import main

HELD_UP_S = 0.1
original = TorchEngine._backward


def held_up(*arguments: Any, **named: Any) -> Any:
    time.sleep(HELD_UP_S)
    return original(*arguments, **named)


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        TorchEngine._backward = held_up  # type: ignore[method-assign]
    sys.exit(main())
