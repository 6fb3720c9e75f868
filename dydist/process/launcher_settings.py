"""What `accelerate launch` was told about the training, and what becomes of it. Knows nothing of torch.

Accelerate hands its options and its configuration file to the processes as environment variables, and would obey them
itself where dydist has its own way. So each is taken over where the user gave no value for dydist's field, or refused
where it contradicts the field or cannot be done. `SETTINGS` is the whole table; `WITHOUT_EFFECT` names the rest.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dydist.errors import UserError


class _Nothing:
    """What a variable says that says nothing."""


NOTHING = _Nothing()
UNSAID = ("", "auto", "none")
_TRUE, _FALSE = ("1", "true", "yes", "y", "t", "on"), ("0", "false", "no", "n", "f", "off")


@dataclass(frozen=True)
class Setting:
    """One variable. `option`: how its user wrote it. `field`: dydist's.

    `meaning` turns the variable's text (in lower case) into the field's value, into NOTHING, or raises ValueError with
    what to do where dydist cannot do that. `needs`: the variable without which Accelerate ignores this one.
    """

    variable: str
    option: str
    field: str
    meaning: Callable[[str], Any]
    needs: str | None = None


def obey_launcher(values: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The configuration `values` (nested, what the user gave) with what the launcher says, and a note on each.

    Raises UserError with every contradiction and every setting that cannot be done, one a line.
    """
    result, notes, problems = copy.deepcopy(dict(values)), [], []
    for setting in SETTINGS:
        if not _is_said(setting, environ):
            continue
        text = environ[setting.variable]
        section, name = setting.field.split(".")
        try:
            said = setting.meaning(text.strip().lower())
        except ValueError as error:
            problems.append(
                f"{setting.field}: the launcher's {setting.option} = {text} cannot be done; {error}"
                f" (it comes from {setting.variable})"
            )
            continue
        if said is NOTHING:
            continue
        given = result.get(section, {}).get(name, NOTHING)
        if given is NOTHING or (setting.field, given) in _LEFT_OPEN:
            result.setdefault(section, {})[name] = said
            notes.append(f"{setting.field}: {_shown(said)}, from the launcher's {setting.option}")
        elif given != said:
            problems.append(
                f"{setting.field}: {_shown(given)} contradicts the launcher's {setting.option} = {text}; give both the "
                f"same value, or only one of them (it comes from {setting.variable})"
            )
    if problems:
        raise UserError("\n".join(problems))
    for field, said, where in _of_deepspeed(environ):  # what contradicts them: engine/deepspeed_config.py
        section, name = field.split(".")
        if name not in result.setdefault(section, {}):
            result[section][name] = said
            notes.append(f"{field}: {_shown(said)}, from the launcher's {where}")
    return result, notes


def deepspeed_file(environ: Mapping[str, str]) -> str | None:
    """The path of the DeepSpeed JSON that the launcher was given."""
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    return None if path in UNSAID else path


def read_file(path: str) -> dict[str, Any]:
    """A DeepSpeed JSON file. Raises UserError with its path where it is missing or not a JSON object."""
    remedy = "give an existing JSON file to deepspeed_config_file, such as launch/deepspeed/zero2.json"
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"deepspeed_config_file: cannot read {path} ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"deepspeed_config_file: {path} is not JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"deepspeed_config_file: {path} holds no JSON object; {remedy}")
    return values


def at(values: Any, dotted: str) -> Any:
    """What nested dictionaries hold under a dotted name; None where it is not there."""
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _of_deepspeed(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """(field, value, where it stands) of what DeepSpeed's file says, and of what is kept in host memory."""
    if environ.get(_DEEPSPEED, "").strip().lower() not in _TRUE:
        return
    path = deepspeed_file(environ)
    file = {} if path is None else read_file(path)
    for dotted, field, meaning in _FILE:
        value = at(file, dotted)
        if value is not None:
            try:
                said = meaning(str(value).strip().lower())
            except ValueError:
                continue
            if said is not NOTHING:
                yield field, said, f"{dotted} in {path}"
    kept = tuple(
        kind
        for kind in ("optimizer", "param")
        if "cpu"
        in (
            environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind.upper()}_DEVICE"),
            at(file, f"zero_optimization.offload_{kind}.device"),
        )
    )
    if kept:
        yield "parallel.offload", "all" if len(kept) == 2 else kept[0], f"offload_{kept[0]}_device"


_LEFT_OPEN = (("parallel.device", "auto"),)
"""Values that a user may give and that leave the choice to the launcher."""


def _is_said(setting: Setting, environ: Mapping[str, str]) -> bool:
    if setting.variable not in environ:
        return False
    return setting.needs is None or environ.get(setting.needs, "").strip().lower() not in (*UNSAID, *_FALSE)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _one_of(allowed: Mapping[str, Any], remedy: str) -> Callable[[str], Any]:
    def meaning(text: str) -> Any:
        if text in UNSAID:
            return NOTHING
        if text not in allowed:
            raise ValueError(remedy)
        return allowed[text]

    return meaning


def _if_true(value: Any) -> Callable[[str], Any]:
    """A switch: on stands for `value`, off says nothing."""
    return _one_of(dict.fromkeys(_TRUE, value) | dict.fromkeys(_FALSE, NOTHING), "it must be true or false")


def _never(remedy: str) -> Callable[[str], Any]:
    """A switch that may only be off."""

    def meaning(text: str) -> Any:
        if text in UNSAID or text in _FALSE:
            return NOTHING
        raise ValueError(remedy)

    return meaning


def _clip_norm(text: str) -> Any:
    if text in UNSAID:
        return NOTHING
    try:
        norm = float(text)
    except ValueError:
        norm = math.nan
    if not 0 <= norm < math.inf:
        raise ValueError("it must be a number of at least 0; give train.clip_norm instead")
    return norm or None


def _accumulation(text: str) -> Any:
    if text in UNSAID or text in ("1", "1.0"):
        return NOTHING
    raise ValueError(
        "dydist adds up the gradients of parallel.shards itself, and train.batch_size is the images of a whole step; "
        "leave the option out, and multiply train.batch_size where a larger step is wanted"
    )


def _device(text: str) -> Any:
    kind = text.partition(":")[0]
    return _one_of({"cpu": "cpu", "cuda": "cuda"}, "dydist trains on cpu or cuda; leave the option out")(kind)


_MIXED = "dydist trains in fp32, bf16 or fp16; leave the option out and give --train.precision"
_DYNAMO = (
    "dydist compiles with torch.compile's inductor, without further options; use inductor or leave it out"
)
_FSDP = (
    "dydist trains with DDP or DeepSpeed; launch without it, or use DeepSpeed's ZeRO with a file of "
    "launch/deepspeed_*.yaml"
)
_TPU = "dydist trains on CPUs and NVIDIA GPUs; unset the variable and give --train.precision bf16"
_ZERO = "it must be 0, 1, 2 or 3"
_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_BACKEND = "ACCELERATE_DYNAMO_BACKEND"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "ACCELERATE_MIXED_PRECISION",
        "mixed_precision",
        "train.precision",
        _one_of({"no": NOTHING, "bf16": "bf16", "fp16": "fp16"}, _MIXED),  # "no" is what it says by itself
    ),
    Setting(_BACKEND, "dynamo_backend", "train.compile", _one_of({"no": NOTHING, "inductor": True}, _DYNAMO)),
    Setting(
        "ACCELERATE_DYNAMO_MODE",
        "dynamo_mode",
        "train.compile_mode",
        _one_of(
            {"default": NOTHING} | {mode: mode for mode in ("reduce-overhead", "max-autotune")},
            "train.compile_mode is default, reduce-overhead or max-autotune",
        ),
        needs=_BACKEND,
    ),
    Setting(
        "ACCELERATE_DYNAMO_USE_FULLGRAPH", "dynamo_use_fullgraph", "train.compile", _never(_DYNAMO), _BACKEND
    ),
    Setting(
        "ACCELERATE_DYNAMO_USE_DYNAMIC", "dynamo_use_dynamic", "train.compile", _never(_DYNAMO), _BACKEND
    ),
    Setting(
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
        "dynamo_use_regional_compilation",
        "train.compile",
        _never(_DYNAMO),
        _BACKEND,
    ),
    Setting("ACCELERATE_USE_CPU", "use_cpu", "parallel.device", _if_true("cpu")),
    Setting("ACCELERATE_TORCH_DEVICE", "ACCELERATE_TORCH_DEVICE", "parallel.device", _device),
    Setting("ACCELERATE_GRADIENT_CLIPPING", "gradient_clipping", "train.clip_norm", _clip_norm),
    Setting(
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "gradient_accumulation_steps",
        "parallel.shards",
        _accumulation,
    ),
    Setting("ACCELERATE_USE_FSDP", "use_fsdp", "parallel.engine", _never(_FSDP)),
    Setting("ACCELERATE_USE_MEGATRON_LM", "use_megatron_lm", "parallel.engine", _never(_FSDP)),
    Setting("ACCELERATE_USE_PARALLELISM_CONFIG", "use_parallelism_config", "parallel.engine", _never(_FSDP)),
    Setting(
        "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
        "distributed_type",
        "parallel.engine",
        _never("dydist does not use SageMaker's own libraries; set distributed_type to NO"),
        needs="ACCELERATE_USE_SAGEMAKER",
    ),
    Setting("ACCELERATE_DOWNCAST_BF16", "downcast_bf16", "train.precision", _never(_TPU)),
    Setting("XLA_DOWNCAST_BF16", "downcast_bf16", "train.precision", _never(_TPU)),
    Setting("XLA_USE_BF16", "mixed_precision", "train.precision", _never(_TPU)),
    Setting(_DEEPSPEED, "use_deepspeed", "parallel.engine", _if_true("deepspeed")),
    Setting(
        "ACCELERATE_DEEPSPEED_ZERO_STAGE",
        "zero_stage",
        "parallel.zero",
        _one_of({str(stage): stage for stage in range(4)}, _ZERO),
        needs=_DEEPSPEED,
    ),
)
"""Every variable of Accelerate's launcher that says something about the training. Two more, for what DeepSpeed keeps in
host memory, and DeepSpeed's own file are read by `engine/deepspeed_config.py`."""

_FILE: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("zero_optimization.stage", "parallel.zero", SETTINGS[-1].meaning),
    ("gradient_clipping", "train.clip_norm", _clip_norm),
    ("bf16.enabled", "train.precision", _if_true("bf16")),
    ("fp16.enabled", "train.precision", _if_true("fp16")),
)
"""What DeepSpeed's own file may say where dydist's field is not given."""
WITHOUT_EFFECT: Mapping[str, str] = {
    "ACCELERATE_LOG_LEVEL ACCELERATE_DEBUG_MODE ACCELERATE_ENABLE_RICH ACCELERATE_DEBUG_RDV_FILE": "what is logged",
    "ACCELERATE_CPU_AFFINITY": "Accelerate obeys it itself",
    "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_INIT_INCLUDE_BUFFERS": "loading large language models",
    "ACCELERATE_ALLOW_CP_STANDALONE PARALLELISM_CONFIG_": "parts of use_parallelism_config, which is refused",
    "FSDP_": "parts of use_fsdp, which is refused",
    "MEGATRON_LM_": "parts of use_megatron_lm, which is refused",
    "ACCELERATE_FP8_ FP8_": "parts of mixed_precision fp8, which is refused",
    "ACCELERATE_USE_SAGEMAKER": "the cloud that it runs in",
    "ACCELERATE_NUM_PROCESSES": "read by Accelerate's own tests alone",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE ACCELERATE_DEEPSPEED_OFFLOAD_": "read below, and by engine/deepspeed_config.py",
    "ACCELERATE_CONFIG_DS_FIELDS": "which of the above stand in Accelerate's file",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "where weights are before the first step, not what they are",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "checkpoints are dydist's own",
    "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES": "the network has no experts",
}
"""The launcher's other variables (a name that ends in _ stands for all that begin so), and why each may be ignored."""
