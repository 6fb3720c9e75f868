"""DeepSpeed's configuration, made from dydist's own.

dydist's configuration takes precedence: it includes the launcher's settings, or these were refused
(`launcher_settings`). A DeepSpeed JSON given to `accelerate launch` may add options that dydist does not set (bucket
sizes, overlap, timers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dydist.config import Config
from dydist.process.launcher_settings import deepspeed_file, read_file

_DECIDED = ("optimizer", "scheduler")


def deepspeed_config(config: Config, world_size: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`: the launcher's file, updated with dydist's settings.

    DeepSpeed runs in fp32: bf16 and fp16 are autocast in the network, as with DDP, so weights and momentum are always
    fp32. Its batch sizes are nominal; it only counts samples with them.
    """
    path = deepspeed_file(environment)
    from_file = {} if path is None else read_file(path)
    given = _said({name: value for name, value in from_file.items() if name not in _DECIDED})
    zero: dict[str, Any] = {**given.get("zero_optimization", {}), "stage": config.parallel.zero}
    for kind in ("optimizer", "param"):
        if offloaded(config, kind):
            zero[f"offload_{kind}"] = {**zero.get(f"offload_{kind}", {}), "device": "cpu"}
        else:
            zero.pop(f"offload_{kind}", None)
    micro = -(-config.train.batch_size // world_size)
    return {
        "steps_per_print": 1 << 60,
        **given,
        "train_batch_size": micro * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.train.clip_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # SGD: DeepSpeed has tested only Adam variants
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
    }


def offloaded(config: Config, kind: str) -> bool:
    """Whether `kind` (optimizer or param) is offloaded to host memory."""
    return config.parallel.offload == "all" or config.parallel.offload == kind


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """Remove values that are "auto", at any depth."""
    kept = {name: _said(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if value != "auto"}
