"""DeepSpeed's configuration, made from dydist's own; and what a launcher may not say against it.

dydist's configuration is the truth. A DeepSpeed JSON given through `accelerate launch` may add what dydist does
not decide (bucket sizes, overlap, timers). What contradicts dydist is an error that names both fields.
Imports neither torch nor deepspeed, so that a contradiction is told before any process group is up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dydist.config import Config
from dydist.errors import UserError
from dydist.process.launcher_settings import at, deepspeed_file, read_file

Expected = tuple[str, Any, tuple[Any, ...]]
"""dydist's field, its value, and the launcher's values that agree with it."""
_UNSAID = ("auto", "none", None, "")
_DECIDED = ("optimizer", "scheduler")


def check_launcher(config: Config, environment: Mapping[str, str]) -> None:
    """Compare what `accelerate launch` was told (its variables and its DeepSpeed file) with `config`.

    Raises UserError with every contradiction, one a line.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if config.parallel.engine != "deepspeed":
        wanted = f" --parallel.zero {stage}" if stage else ""
        raise UserError(
            f"parallel.engine: {config.parallel.engine} contradicts the launcher, which starts DeepSpeed; add "
            f"--parallel.engine deepspeed{wanted}, or launch without DeepSpeed (launch/cpu_2.yaml, gpu_8.yaml)"
        )
    problems = [
        _problem(where, environment[name], expected)
        for name, where, expected in _variables(config)
        if _contradicts(environment.get(name), expected)
    ]
    if (path := deepspeed_file(environment)) is not None:
        problems += _file_problems(config, read_file(path), path, int(environment.get("WORLD_SIZE", "1")))
    if problems:
        raise UserError("\n".join(problems))


def deepspeed_config(config: Config, world_size: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`: the launcher's file for what dydist leaves open, ours over it.

    DeepSpeed itself runs in fp32: bf16 and fp16 are autocast within the network, as with DDP, so weights and
    momentum are fp32 everywhere. Its batch sizes are nominal: it counts samples with them and nothing else.
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
        "zero_allow_untested_optimizer": True,  # SGD: DeepSpeed names the ones it was tested with, all of them Adams
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
    }


def offloaded(config: Config, kind: str) -> bool:
    """Whether `kind` (optimizer or param) lives in host memory."""
    return config.parallel.offload == "all" or config.parallel.offload == kind


def _variables(config: Config) -> Iterator[tuple[str, str, Expected]]:
    """(environment variable, what a user wrote to set it, what it may be)."""
    clip = config.train.clip_norm
    offload = "parallel.offload", config.parallel.offload
    yield (
        "ACCELERATE_DEEPSPEED_ZERO_STAGE",
        "zero_stage",
        ("parallel.zero", config.parallel.zero, (config.parallel.zero,)),
    )
    for kind in ("optimizer", "param"):
        device = "cpu" if offloaded(config, kind) else "none"
        yield (
            f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind.upper()}_DEVICE",
            f"offload_{kind}_device",
            (*offload, (device,)),
        )
    yield ("ACCELERATE_GRADIENT_CLIPPING", "gradient_clipping", ("train.clip_norm", clip, (clip or 0.0,)))
    shards = ("parallel.shards", config.parallel.shards, (1,))
    yield ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps", shards)
    precision = config.train.precision
    yield ("ACCELERATE_MIXED_PRECISION", "mixed_precision", ("train.precision", precision, (precision, "no")))


def _file_problems(config: Config, given: dict[str, Any], path: str, world_size: int) -> Iterator[str]:
    batch, precision = config.train.batch_size, config.train.precision
    micro: tuple[Any, ...] = (batch // world_size,) if batch % world_size == 0 else ()
    clip = config.train.clip_norm
    rules: dict[str, Expected] = {
        "zero_optimization.stage": ("parallel.zero", config.parallel.zero, (config.parallel.zero,)),
        "train_batch_size": ("train.batch_size", batch, (batch,)),
        "train_micro_batch_size_per_gpu": ("train.batch_size", batch, micro),
        "gradient_accumulation_steps": ("parallel.shards", config.parallel.shards, (1,)),
        "gradient_clipping": ("train.clip_norm", clip, (clip or 0.0,)),
        "fp16.enabled": ("train.precision", precision, (precision == "fp16",)),
        "bf16.enabled": ("train.precision", precision, (precision == "bf16",)),
        "torch_autocast.enabled": ("train.precision", precision, (False,)),
    }
    for kind in ("optimizer", "param"):
        device = "cpu" if offloaded(config, kind) else "none"
        rules[f"zero_optimization.offload_{kind}.device"] = (
            "parallel.offload",
            config.parallel.offload,
            (device,),
        )
    for dotted, expected in rules.items():
        value = at(given, dotted)
        if _contradicts(value, expected):
            yield _problem(f"{dotted} in {path}", value, expected)
    for section, field in zip(_DECIDED, ("optim.*", "optim.schedule"), strict=True):
        if given.get(section) not in _UNSAID:
            yield (
                f"{field}: the launcher's {section} in {path} would replace it; dydist's own is the only one "
                f"allowed; take {section} out of the file"
            )


def _contradicts(value: Any, expected: Expected) -> bool:
    allowed = expected[2]
    if value is None or (value in _UNSAID and "none" not in allowed and "cpu" not in allowed):
        return False
    if value in ("auto", ""):
        return False
    if isinstance(value, str) and allowed and isinstance(allowed[0], (int, float)):
        try:
            return float(value) not in allowed
        except ValueError:
            return True
    return value not in allowed


def _problem(where: str, value: Any, expected: Expected) -> str:
    field, ours, allowed = expected
    options = " or ".join(str(item) for item in allowed) or "auto"
    return (
        f"{field}: {ours} contradicts the launcher's {where} = {value}; dydist's field decides, so the launcher "
        f"may say {options} or leave it out; change {field} or the launcher's file"
    )


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is "auto", at any depth."""
    kept = {name: _said(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if value != "auto"}
