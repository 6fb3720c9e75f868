"""Checkpoints: written in the background, committed atomically, verified before they are loaded.

- `Checkpointer`, `TrainingState`: what a run uses (`_checkpointer`, `_tensors`; `_context`: its arguments)
- `open_storage`, `Storage`: a store at a path or fsspec URL (`dydist.storage`); `open_patiently` retries (`_opening`)
- `survey`, `inspect`, `verify`, `load`, `CheckpointFolder`: the checkpoints of a store (`_catalog`; `_content`: checks
  of their files); `find_source`: the checkpoints that a URL names
- `copy_checkpoint`, `prune`, `Keep`, `remove_attempt`: copying and removing checkpoints (`_copy`, `_housekeeping`)
- `check_store`, `refuse_missing_source`: early checks of a store (`_store_check`)
- `Manifest`, `folder_name`, `step_of`: the format (`_format`)
- `redact`, `scrub`: keeping secrets out of what is written (`dydist.text.redaction`)

Inside: `_policy` makes the decisions on which all processes must agree, `_save` writes and commits one save,
`_pipeline` runs saves in the background (`_transfer`: the steps of one save), `_stage` is the node's own disk,
`_lease` admits one writer (`_claim`: to the run folder and the store), `_restore` chooses the checkpoint of a
start (`_resume`: by `checkpoint.resume`; `_agreement`: how processes decide and wait together). This package knows
neither engines nor clusters. For users: docs/checkpoints.md, docs/saving.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dydist.checkpoint._catalog import CheckpointFolder, inspect, load, survey, verify
from dydist.checkpoint._claim import StoredRun
from dydist.checkpoint._context import Clock, LeaseTiming, RankGroup, RunInfo
from dydist.checkpoint._copy import copy_checkpoint
from dydist.checkpoint._format import Manifest
from dydist.checkpoint._housekeeping import Keep, prune, remove_attempt
from dydist.checkpoint._opening import open_patiently
from dydist.checkpoint._restore import find_source
from dydist.checkpoint._store_check import check_store, refuse_missing_source
from dydist.errors import (
    CheckpointError,
    DamagedError,
    LeaseHeldError,
    LeaseLostError,
    NewerFormatError,
)
from dydist.storage.names import folder_name, step_of
from dydist.storage.opening import open_storage
from dydist.storage.protocol import Storage
from dydist.storage.retry import Retrying
from dydist.storage.transient import explain, is_of_store, is_refused, is_transient
from dydist.text.redaction import redact, scrub

if TYPE_CHECKING:
    from dydist.checkpoint._checkpointer import Checkpointer
    from dydist.checkpoint._tensors import TrainingState

__all__ = [
    "CheckpointError",
    "CheckpointFolder",
    "Checkpointer",
    "Clock",
    "DamagedError",
    "Keep",
    "LeaseHeldError",
    "LeaseLostError",
    "LeaseTiming",
    "Manifest",
    "NewerFormatError",
    "RankGroup",
    "Retrying",
    "RunInfo",
    "Storage",
    "StoredRun",
    "TrainingState",
    "check_store",
    "copy_checkpoint",
    "explain",
    "find_source",
    "folder_name",
    "inspect",
    "is_of_store",
    "is_refused",
    "is_transient",
    "load",
    "open_patiently",
    "open_storage",
    "prune",
    "redact",
    "refuse_missing_source",
    "remove_attempt",
    "scrub",
    "step_of",
    "survey",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the two classes that need torch on first use, to keep the command line fast."""
    if name == "Checkpointer":
        from dydist.checkpoint._checkpointer import Checkpointer

        return Checkpointer
    if name == "TrainingState":
        from dydist.checkpoint._tensors import TrainingState

        return TrainingState
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
