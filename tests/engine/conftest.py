from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dydist.engine import World, start_world
from helpers.engines import configure


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    before = torch.get_num_threads()
    yield start_world(configure())
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)
