"""The options of `accelerate launch` for training, mapped to dydist's configuration. Does not import torch.

Accelerate passes its options and configuration file to the processes as environment variables. Each either sets the
corresponding dydist field, if the user gave no value for it, or is refused, if it contradicts the field or is not
supported. `SETTINGS` lists the variables, `in_file` the keys of DeepSpeed's JSON, `WITHOUT_EFFECT` the rest.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.text.strict import TextError, load_json, read_user_text, whole_number


class _Nothing:
    """The value of a variable that leaves the field as it is."""


NOTHING = _Nothing()


@dataclass(frozen=True)
class OneOf:
    """The values of a field that agree with the launcher, and the one that is used if the field is not given."""

    values: tuple[Any, ...]
    taken: Any = NOTHING


UNSAID = ("", "auto", "none")
_TRUE, _FALSE = ("1", "true", "yes", "y", "t", "on"), ("0", "false", "no", "n", "f", "off")


@dataclass(frozen=True)
class Setting:
    """One variable, or one key of DeepSpeed's file. `option`: its name for users. `field`: dydist's field.

    `meaning` converts its text (in lower case) to the field's value, NOTHING or OneOf, or raises ValueError with a
    remedy if dydist does not support it. `needs`: the variable without which Accelerate ignores this one.
    """

    variable: str
    option: str
    field: str
    meaning: Callable[[str], Any]
    needs: str | None = None


def apply_launcher_settings(
    values: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Merge the launcher's settings into `values` (the user's, nested); returns the result and a note on each.

    Raises UserError with every contradiction and every unsupported setting, one per line.
    """
    result, notes, problems = copy.deepcopy(dict(values)), [], []
    for setting, text, where in _stated(environ):
        section, name = setting.field.split(".")
        try:
            said = setting.meaning(text.strip().lower())
        except ValueError as error:
            problems.append(
                f"{setting.field}: the launcher's {setting.option} = {text} is not supported; {error} ({where})"
            )
            continue
        if said is NOTHING:
            continue
        allowed = said if isinstance(said, OneOf) else OneOf((said,), said)
        value = result.get(section, {}).get(name, NOTHING)
        given = value is not NOTHING and (setting.field, value) not in _LEFT_OPEN
        value = value if given else allowed.taken
        if value is NOTHING:
            continue
        if value not in allowed.values:
            problems.append(
                f"{setting.field}: {_shown(value)} contradicts the launcher's {setting.option} = {text}; give both the "
                f"same value, or only one of them ({where})"
            )
        elif not given:
            result.setdefault(section, {})[name] = value
            notes.append(f"{setting.field}: {_shown(value)}, from the launcher's {setting.option}")
    if problems:
        raise UserError("\n".join(problems))
    return result, notes


def deepspeed_file(environ: Mapping[str, str]) -> str | None:
    """The path of the DeepSpeed JSON that was given to the launcher, or None."""
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    return None if path in UNSAID else path


def read_file(path: str) -> dict[str, Any]:
    """Read a DeepSpeed JSON file. Raises UserError with its path if it is missing or not a JSON object."""
    remedy = "give an existing JSON file to deepspeed_config_file, such as launch/deepspeed/zero2.json"
    try:
        values = load_json(read_user_text(Path(path)))
    except OSError as error:
        raise UserError(f"deepspeed_config_file: cannot read {path} ({error.strerror}); {remedy}") from error
    except TextError as error:
        raise UserError(f"deepspeed_config_file: {path} is not JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise UserError(f"deepspeed_config_file: {path} holds no JSON object; {remedy}")
    return values


def at(values: Any, dotted: str) -> Any:
    """The value of a dotted name in nested dictionaries, or None."""
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _stated(environ: Mapping[str, str]) -> Iterator[tuple[Setting, str, str]]:
    """The settings in the variables and in DeepSpeed's file: the setting, its text, and its source."""
    for setting in SETTINGS:
        if _is_stated(setting, environ):
            yield setting, environ[setting.variable], f"it comes from {setting.variable}"
    if environ.get(_DEEPSPEED, "").strip().lower() not in _TRUE:
        return
    path = deepspeed_file(environ)
    file = {} if path is None else read_file(path)
    for setting in in_file(int(environ.get("WORLD_SIZE", "1"))):
        if (value := at(file, setting.variable)) is not None:
            yield setting, value if isinstance(value, str) else json.dumps(value), f"it is set in {path}"
    sources = [
        (kind, device, where)
        for kind in ("optimizer", "param")
        for device, where in (
            (
                environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind.upper()}_DEVICE"),
                f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind.upper()}_DEVICE",
            ),
            (at(file, f"zero_optimization.offload_{kind}.device"), str(path)),
        )
        if device not in (None, "", "auto")
    ]
    kept = sorted({kind for kind, device, _ in sources if device == "cpu"})
    together = NOTHING if not kept else "all" if len(kept) == 2 else kept[0]
    for kind, device, where in sources:
        option = f"offload_{kind}_device"
        yield (
            Setting(where, option, "parallel.offload", _offload(kind, together)),
            str(device),
            f"it is set in {where}",
        )


def _offload(kind: str, together: Any) -> Callable[[str], Any]:
    """Offloading: two settings of DeepSpeed, one field of dydist. `together`: the field's value that both give."""
    return _one_of(
        {
            "cpu": OneOf((kind, "all"), together),
            "none": OneOf(tuple({"none", "optimizer", "param"} - {kind}), together),
        },
        "dydist offloads only to host memory; use cpu or none",
        unsaid=(),
    )


_LEFT_OPEN = (("parallel.device", "auto"),)
"""Values of fields that leave the choice to the launcher."""


def _is_stated(setting: Setting, environ: Mapping[str, str]) -> bool:
    if setting.variable not in environ:
        return False
    return setting.needs is None or environ.get(setting.needs, "").strip().lower() not in (*UNSAID, *_FALSE)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _one_of(allowed: Mapping[str, Any], remedy: str, unsaid: Sequence[str] = UNSAID) -> Callable[[str], Any]:
    def meaning(text: str) -> Any:
        if text in unsaid:
            return NOTHING
        if text not in allowed:
            raise ValueError(remedy)
        return allowed[text]

    return meaning


def _if_true(value: Any) -> Callable[[str], Any]:
    """A switch: on means `value`, off leaves the field as it is."""
    return _one_of(dict.fromkeys(_TRUE, value) | dict.fromkeys(_FALSE, NOTHING), "it must be true or false")


def _never(remedy: str) -> Callable[[str], Any]:
    """A switch that must be off."""

    def meaning(text: str) -> Any:
        if text in UNSAID or text in _FALSE:
            return NOTHING
        raise ValueError(remedy)

    return meaning


def _precision(name: str) -> Callable[[str], Any]:
    """A switch for one precision: off means any other one."""
    others = OneOf(tuple({"fp32", "bf16", "fp16"} - {name}))
    return _one_of(dict.fromkeys(_TRUE, name) | dict.fromkeys(_FALSE, others), "it must be true or false")


def _batch(processes: int) -> Callable[[str], Any]:
    """A batch size per process."""

    def meaning(text: str) -> Any:
        if text in UNSAID:
            return NOTHING
        if not whole_number(text):
            raise ValueError("it must be a whole number of at least 1; give train.batch_size instead")
        return int(text) * processes

    return meaning


def _replaced(text: str) -> Any:
    if text in UNSAID:
        return NOTHING
    raise ValueError(
        "it would replace the one that dydist sets, and no other is supported; remove it from the file"
    )


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
        "leave the option out, and increase train.batch_size for more images per step"
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
        _one_of({"no": NOTHING, "bf16": "bf16", "fp16": "fp16"}, _MIXED),  # "no" is Accelerate's default
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
"""Every variable of Accelerate's launcher that concerns training, except the two for offloading (`_stated`)."""


def in_file(world_size: int) -> tuple[Setting, ...]:
    """The keys of DeepSpeed's file that concern dydist's fields; the others are passed to DeepSpeed."""
    rows: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
        ("zero_optimization.stage", "parallel.zero", SETTINGS[-1].meaning),
        ("train_batch_size", "train.batch_size", _batch(1)),
        ("train_micro_batch_size_per_gpu", "train.batch_size", _batch(world_size)),
        ("gradient_accumulation_steps", "parallel.shards", _accumulation),
        ("gradient_clipping", "train.clip_norm", _clip_norm),
        ("bf16.enabled", "train.precision", _precision("bf16")),
        ("fp16.enabled", "train.precision", _precision("fp16")),
        (
            "torch_autocast.enabled",
            "train.precision",
            _never("dydist itself sets up autocast, by train.precision"),
        ),
        ("optimizer", "optim.lr", _replaced),
        ("scheduler", "optim.schedule", _replaced),
    )
    return tuple(Setting(key, key, field, meaning) for key, field, meaning in rows)


WITHOUT_EFFECT: Mapping[str, str] = {
    "ACCELERATE_LOG_LEVEL ACCELERATE_DEBUG_MODE ACCELERATE_ENABLE_RICH ACCELERATE_DEBUG_RDV_FILE": "what is logged",
    "ACCELERATE_CPU_AFFINITY": "Accelerate obeys it itself",
    "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_INIT_INCLUDE_BUFFERS": "loading large language models",
    "ACCELERATE_ALLOW_CP_STANDALONE PARALLELISM_CONFIG_": "parts of use_parallelism_config, which is refused",
    "FSDP_": "parts of use_fsdp, which is refused",
    "MEGATRON_LM_": "parts of use_megatron_lm, which is refused",
    "ACCELERATE_FP8_ FP8_": "parts of mixed_precision fp8, which is refused",
    "ACCELERATE_USE_SAGEMAKER": "the cloud that the processes run in",
    "ACCELERATE_NUM_PROCESSES": "read by Accelerate's own tests alone",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE ACCELERATE_DEEPSPEED_OFFLOAD_": "read by `_stated`",
    "ACCELERATE_CONFIG_DS_FIELDS": "which settings Accelerate's file contains",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "where weights are before the first step, not what they are",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "checkpoints are dydist's own",
    "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES": "the network has no experts",
}
"""The launcher's other variables (a name that ends in _ is a prefix), and why each may be ignored."""
