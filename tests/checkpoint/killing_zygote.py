"""What the process that killed runs are forked from has loaded. It starts no thread and opens no connection."""

from __future__ import annotations

import s3fs  # noqa: F401
import sshfs  # noqa: F401
import torch
from killing_driver import uninterrupted

import dydist.checkpoint._checkpointer
import dydist.checkpoint._remote  # noqa: F401

torch.set_num_threads(1)  # a pool of threads would not outlive the fork
uninterrupted()
