"""Checks of a configuration beyond the types of its fields, and the fields that do not affect results."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import Any

from dydist.config.schema import Config, ModelConfig
from dydist.config.types import folder_name_problem
from dydist.errors import UserError
from dydist.text.strict import whole_number

LOCAL = (
    "run",
    "checkpoint",
    "monitor",
    "data.root",
    "data.download",
    "train.profile",
    "parallel.device",
    "parallel.threads",
    "parallel.timeout_s",
    "parallel.guard_every_steps",
)
"""Sections and fields that do not affect results. Runs that differ only in these repeat the same computation."""
LOWEST: dict[str, float] = {
    "seed": 0, "model.kernels": 1, "model.attention_min_hidden": 1,
    "data.crop_padding": 0, "data.cutout": 0, "data.mixup": 0, "data.cutmix": 0,
    "data.resized_crop": 0, "data.colour_jitter": 0, "data.rand_augment": 0,
    "data.limit": 1, "data.validation": 1, "data.validation_seed": 0,
    "data.side": 4, "data.split_seed": 0,
    "train.epochs": 1, "train.batch_size": 1, "train.max_steps": 1, "train.eval_batch_size": 1,
    "optim.weight_decay": 0, "optim.lr_end": 0, "optim.warmup_epochs": 0, "optim.lr": 0,
    "optim.kernel_lr": 0, "optim.kernel_decay": 0, "optim.attention_lr": 0,
    "temperature.epochs": 0, "parallel.shards": 1, "parallel.threads": 1, "parallel.guard_every_steps": 0,
    "checkpoint.every_steps": 1, "checkpoint.keep": 1, "checkpoint.keep_every_steps": 1,
    "checkpoint.stage_keep": 1, "monitor.every_steps": 1, "monitor.histograms_every_steps": 0,
}  # fmt: skip
"""Inclusive lower limits of fields."""
ABOVE: dict[str, float] = {
    "model.width": 0, "model.reduction": 0, "model.spread": 0,
    "train.clip_norm": 0, "train.eval_every_epochs": 0, "optim.gamma": 0,
    "temperature.start": 0, "temperature.end": 0, "parallel.timeout_s": 0, "checkpoint.every_minutes": 0,
    "checkpoint.deadline_s": 0,
}  # fmt: skip
"""Exclusive lower limits of fields."""
HIGHEST: dict[str, float] = {
    "model.kernels": 1000, "model.attention_min_hidden": 10_000, "model.spread": 100, "model.width": 100,
    "data.side": 1024, "data.crop_padding": 1000, "data.resized_crop": 1, "data.colour_jitter": 1,
    "data.rand_augment": 30,
    "parallel.threads": 10_000,
    "train.epochs": 10**6, "train.max_steps": 10**9, "train.batch_size": 10**7, "train.eval_batch_size": 10**7,
    "parallel.shards": 10**5, "parallel.timeout_s": 10**7, "checkpoint.deadline_s": 10**7,
    "checkpoint.every_minutes": 10**6, "train.eval_every_epochs": 10**6,
}  # fmt: skip
"""Upper limits of fields: larger values are mistakes that no machine's memory, or no clock, allows."""
BELOW_ONE = (
    "model.dropout",
    "data.test_fraction",
    "train.label_smoothing",
    "train.ema_decay",
    "optim.momentum",
)
"""Fields that must be at least 0 and below 1."""
DYNAMIC_ONLY = (
    "attention", "dynamic", "spread", "attention_norm", "attention_min_hidden", "channel_attention",
)  # fmt: skip
"""Fields of `model` that mean nothing for a static network."""
CONVOLUTIONS = tuple(
    f"layer{stage}.{block}.{name}"
    for stage in (1, 2, 3, 4)
    for block in (0, 1)
    for name in ("conv1", "conv2", "downsample.0")
    if name != "downsample.0" or (stage > 1 and block == 0)
)
"""Names of ResNet-18's convolutions, its stem's apart."""

AUGMENTATIONS = ("resized_crop", "colour_jitter", "rand_augment", "cutout", "mixup", "cutmix")
"""Fields of `data` that need data.augment."""


def is_local(path: str) -> bool:
    """Whether the field `section.name` is one of LOCAL."""
    return any(path == local or path.startswith(f"{local}.") for local in LOCAL)


def check_config(config: Config, *, world_size: int = 1) -> None:
    """Raise UserError with every broken rule, one per line, each naming its field."""
    if found := problems(config, world_size):
        raise UserError("\n".join(found))


def problems(config: Config, world_size: int) -> list[str]:
    """Every broken rule, one per line, each naming its field; empty if `world_size` processes can run `config`."""
    found = [*_ranges(config)]
    if config.parallel.shards >= 1:
        found += _combinations(config, world_size)
    return found


def _ranges(config: Config) -> Iterator[str]:
    """Values out of a field's range."""
    for path, low in LOWEST.items():
        value = _get(config, path)
        if value not in (None, "auto") and not low <= value < float("inf"):
            yield f"{path}: {value} is not allowed; it must be a number of at least {low:g}"
    for path, low in ABOVE.items():
        value = _get(config, path)
        if value is not None and not low < value < float("inf"):
            yield f"{path}: {value} is not allowed; it must be a number above {low:g}"
    for path, high in HIGHEST.items():
        value = _get(config, path)
        if value is not None and high < value < float("inf"):
            yield f"{path}: {value} is not allowed; it must be a number of at most {high:,g}"
    for path in BELOW_ONE:
        value = _get(config, path)
        if value is not None and not 0 <= value < 1:
            yield f"{path}: {value} is not allowed; it must be at least 0 and below 1"
    if problem := folder_name_problem(config.run.name):
        yield f"run.name: {config.run.name!r} is not allowed; {problem}"


def _combinations(config: Config, world_size: int) -> Iterator[str]:
    """Values that are valid but cannot be combined."""
    batch, shards = config.train.batch_size, config.parallel.shards
    if batch % shards:
        near = sorted({max(1, batch // shards) * shards, (batch // shards + 1) * shards})
        yield (
            f"train.batch_size: {batch} cannot be cut into parallel.shards={shards} equal shards; "
            f"use a multiple of {shards}, such as {' or '.join(map(str, near))}, or other shards"
        )
    if world_size > shards:
        yield (
            f"parallel.shards: {shards} shards cannot be shared by {world_size} processes; "
            f"start at most {shards} processes, or set parallel.shards to {world_size} or more"
        )
    marks = config.optim.milestones
    if any(not 0 < mark < 1 for mark in marks):
        yield f"optim.milestones: {list(marks)} is not allowed; each is a fraction of the epochs between 0 and 1"
    elif list(marks) != sorted(set(marks)):
        yield f"optim.milestones: {list(marks)} is out of order; use {sorted(set(marks))}"
    if config.train.epochs >= 1 and config.optim.warmup_epochs >= config.train.epochs:
        yield (
            f"optim.warmup_epochs: {config.optim.warmup_epochs:g} leaves nothing of train.epochs="
            f"{config.train.epochs}; it must be smaller"
        )
    if config.optim.nesterov and config.optim.momentum == 0:
        yield "optim.nesterov: needs optim.momentum above 0"
    if (config.data.name == "factory") != (config.data.factory is not None):
        yield "data.factory: goes with data.name=factory; give both, or neither"
    elif config.data.factory is not None and not re.fullmatch(r"[\w.]+:\w+", config.data.factory):
        yield f"data.factory: {config.data.factory!r} is not allowed; write package.module:function"
    if config.train.loss is not None:
        if not re.fullmatch(r"[\w.]+:\w+", config.train.loss):
            yield f"train.loss: {config.train.loss!r} is not allowed; write package.module:function"
        if config.train.label_smoothing:
            yield (
                f"train.label_smoothing: {config.train.label_smoothing:g} is that of cross-entropy, and "
                f"{config.train.loss} is trained with; smooth the targets in that function"
            )
    if config.data.options and config.data.factory is None:
        yield "data.options: they are those of data.factory; give both, or neither"
    if config.data.mixup > 0 and config.data.cutmix > 0:
        yield "data.mixup: cannot be used together with data.cutmix; set one of them to 0"
    held_out, limit = config.data.validation, config.data.limit
    if held_out is not None and limit is not None and held_out >= limit >= 1:
        yield f"data.validation: {held_out} leaves nothing of data.limit={limit}; it must be smaller"
    wanted = [name for name in AUGMENTATIONS if getattr(config.data, name)]
    if wanted and not config.data.augment:
        yield f"data.augment: false contradicts data.{', data.'.join(wanted)}; set those to 0, or augment"
    if config.parallel.zero and config.parallel.engine != "deepspeed":
        yield f"parallel.zero: {config.parallel.zero} needs parallel.engine=deepspeed"
    lowest_stage = {"none": 0, "optimizer": 1, "param": 3, "all": 3}[config.parallel.offload]
    if config.parallel.zero < lowest_stage:
        yield f"parallel.offload: {config.parallel.offload} needs parallel.zero={lowest_stage} or more"
    if config.parallel.engine == "deepspeed" and config.train.compile:
        yield "train.compile: true needs parallel.engine=ddp; ZeRO's hooks do not go through a compiled network"
    if config.parallel.zero == 3 and config.train.ema_decay is not None:
        yield (
            f"train.ema_decay: {config.train.ema_decay:g} needs parallel.zero=0, 1 or 2; with 3 no process holds "
            "the weights that are averaged"
        )
    if config.parallel.engine == "deepspeed" and config.parallel.reduce == "exact":
        yield "parallel.reduce: exact needs parallel.engine=ddp; DeepSpeed sums gradients in its own order"
    if config.train.precision == "fp16" and config.train.compile and config.parallel.device == "cpu":
        yield "train.precision: fp16 cannot be compiled on a CPU; use bf16 or fp32"
    if (mode := config.train.compile_mode) != "default":
        if not config.train.compile:
            yield f"train.compile_mode: {mode} needs train.compile=true"
        if config.parallel.reduce == "exact":
            yield (
                f"train.compile_mode: {mode} needs parallel.reduce=fast; CUDA graphs would keep the memory of all of "
                "a step's passes, and tuned kernels differ from machine to machine"
            )
    yield from _network(config)
    if not config.model.dynamic_kernels:
        usual = {field.name: field.default for field in fields(ModelConfig)}
        needed = "model.kind=dynamic" if config.model.factory is None else "model.convert=true"
        for name in DYNAMIC_ONLY:
            if (value := getattr(config.model, name)) != usual[name]:
                yield f"model.{name}: {value} needs {needed}; a static network has no attention"
    elif config.model.factory is None and (problem := no_dynamic_layer(config.model.dynamic, CONVOLUTIONS)):
        yield problem
    if (steps := config.train.profile) is not None:
        first, last = (whole_number(word) for word in (steps.partition(":")[0], steps.partition(":")[2]))
        if first is None or last is None or not 1 <= first <= last:
            yield f"train.profile: {steps!r} is not allowed; give the first and the last step, such as 10:20"
    yield from _places(config)
    yield from _trackers(config)


def no_dynamic_layer(pattern: str, names: Sequence[str]) -> str | None:
    """The message about a `model.dynamic` that matches none of the convolutions `names`, or None."""
    problem = (
        f"model.dynamic: {pattern!r} matches none of the network's convolutions, such as {names[0]} and {names[-1]}; "
        "use * for all of them, or model.kind=static for none"
    )
    return None if any(fnmatchcase(name, pattern) for name in names) else problem


def _network(config: Config) -> Iterator[str]:
    """A network of the user's own."""
    model = config.model
    if model.factory is None:
        if model.options:
            yield "model.options: they are those of a network of your own; give model.factory too"
        if model.convert:
            yield "model.convert: true is for a network of your own; give model.factory, or model.kind=dynamic"
    else:
        module, colon, function = model.factory.partition(":")
        if not colon or not all(part.isidentifier() for part in f"{module}.{function}".split(".")):
            yield f"model.factory: {model.factory!r} is not allowed; write package.module:function"


def _places(config: Config) -> Iterator[str]:
    """Folders and URLs that are none, before anything is opened."""
    from dydist.storage.places import folder_problem, place_problem  # here: they may import fsspec

    resume = config.checkpoint.resume
    named = names_source(resume)
    if named and "/" not in resume:
        yield f"checkpoint.resume: {resume!r} is not allowed; use auto, never, a step, or a checkpoint's path or URL"
    places = {
        "checkpoint.url": config.checkpoint.url,
        "monitor.logdir": config.monitor.logdir,
        "checkpoint.resume": resume if named and "/" in resume else None,
    }
    for field, place in places.items():
        if place is not None and (wrong := place_problem(place, step_folder=field == "checkpoint.resume")):
            yield f"{field}: {wrong}"
    folders = {
        "run.dir": config.run.dir,
        "data.root": config.data.root,
        "checkpoint.stage_dir": config.checkpoint.stage_dir,
        "monitor.prometheus_file": config.monitor.prometheus_file,
    }
    for field, folder in folders.items():
        if folder is not None and (wrong := folder_problem(folder)):
            yield f"{field}: {wrong}"


def _trackers(config: Config) -> Iterator[str]:
    """Trackers that are unknown or not installed, before data is touched."""
    field, names = "monitor.trackers", config.monitor.trackers
    if not names:
        return
    from dydist.config.trackers import tracker_problem

    if len(set(names)) < len(names):
        yield f"{field}: {list(names)} has a name twice; name each tracker once"
        return
    for name in names:
        if wrong := tracker_problem(name, os.environ):
            yield f"{field}: {wrong}"


def names_source(resume: str) -> bool:
    """Whether `checkpoint.resume` is another run's path or URL: neither auto, nor never, nor a step."""
    return resume not in ("auto", "never") and whole_number(resume) is None


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
