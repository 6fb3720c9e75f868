"""All random draws of a run: a generator is keyed by its purpose, step and shard, not by process or call order.

Because a generator is a function of (seed, purpose, key…), no random state is ever saved or restored: a run
that resumes at step 1,000 on other machines draws what it would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The generator for (seed, purpose, key…), e.g. `generator(0, "augment", step, shard)`.

    Philox (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) keyed with 128 bits of a
    SHA-256 over the name. About 15 µs. Draws are the same on every platform for one numpy version.
    """
    return np.random.Generator(
        np.random.Philox(key=int.from_bytes(_digest(seed, purpose, key)[:16], "little"))
    )


def derived_seed(seed: int, purpose: str, *key: int) -> int:
    """A 63-bit seed for libraries that take an integer, e.g. `torch.manual_seed` for the initial weights."""
    return int.from_bytes(_digest(seed, purpose, key)[:8], "little") >> 1


def _digest(seed: int, purpose: str, key: tuple[int, ...]) -> bytes:
    name = ":".join([str(seed), purpose, *map(str, key)])
    return hashlib.sha256(name.encode()).digest()
