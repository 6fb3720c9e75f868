"""Imports DeepSpeed only if a run uses it, without its log output, and with a clear error if it is missing."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from types import ModuleType

import torch

from dydist.config import Config
from dydist.errors import UserError


def import_deepspeed(config: Config) -> ModuleType:
    """The `deepspeed` module, set up for this process's device. Call it before Accelerate makes process groups.

    Raises UserError if it, or transformers, which Accelerate's DeepSpeed plugin needs, is not installed.
    """
    if config.parallel.device == "cpu" or not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        deepspeed = importlib.import_module("deepspeed")
        importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"parallel.engine: deepspeed needs the package {error.name}, which is not installed; "
            "DS_BUILD_OPS=0 pip install 'dydist[deepspeed]' installs it, or use --parallel.engine ddp"
        ) from error
    # hides a warning that SGD is "untested" with ZeRO: tests/engine/test_deepspeed.py tests it
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed 0.19 uses collectives that torch 2.13 has renamed
    renamed = r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
    warnings.filterwarnings("ignore", message=renamed, category=FutureWarning)
    # each process would compile a kernel for inference at start, which is never used here
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
