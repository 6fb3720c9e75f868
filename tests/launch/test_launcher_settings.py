"""What Accelerate's launcher says about the training is obeyed or refused: row by row, and by its own parser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from dydist.config import Config
from dydist.config.reader import build, flatten
from dydist.config.rules import check_config
from dydist.errors import UserError
from dydist.process.launcher_settings import SETTINGS, WITHOUT_EFFECT, apply_launcher_settings
from helpers.support import REPOSITORY

TAKEN = [
    ("ACCELERATE_MIXED_PRECISION", "bf16", "train.precision", "bf16", "fp32"),
    ("ACCELERATE_MIXED_PRECISION", "fp16", "train.precision", "fp16", "bf16"),
    ("ACCELERATE_MIXED_PRECISION", "BF16", "train.precision", "bf16", "fp16"),
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "train.compile", True, False),
    ("ACCELERATE_DYNAMO_MODE", "max-autotune", "train.compile_mode", "max-autotune", "default"),
    ("ACCELERATE_DYNAMO_MODE", "reduce-overhead", "train.compile_mode", "reduce-overhead", "max-autotune"),
    ("ACCELERATE_USE_CPU", "True", "parallel.device", "cpu", "cuda"),
    ("ACCELERATE_TORCH_DEVICE", "cpu", "parallel.device", "cpu", "cuda"),
    ("ACCELERATE_TORCH_DEVICE", "cuda:0", "parallel.device", "cuda", "cpu"),
    ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "train.clip_norm", 0.5, 1.0),
    ("ACCELERATE_GRADIENT_CLIPPING", "0.0", "train.clip_norm", None, 1.0),
    ("ACCELERATE_USE_DEEPSPEED", "true", "parallel.engine", "deepspeed", "ddp"),
    ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2", "parallel.zero", 2, 3),
]
"""(variable, its text, dydist's field, the value taken over, a value that contradicts it)."""
REFUSED = [
    ("ACCELERATE_MIXED_PRECISION", "fp8"),
    ("ACCELERATE_DYNAMO_BACKEND", "EAGER"),
    ("ACCELERATE_DYNAMO_BACKEND", "CUDAGRAPHS"),
    ("ACCELERATE_DYNAMO_MODE", "max-autotune-no-cudagraphs"),
    ("ACCELERATE_DYNAMO_USE_FULLGRAPH", "True"),
    ("ACCELERATE_DYNAMO_USE_DYNAMIC", "True"),
    ("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "True"),
    ("ACCELERATE_USE_CPU", "perhaps"),
    ("ACCELERATE_TORCH_DEVICE", "xpu:0"),
    ("ACCELERATE_GRADIENT_CLIPPING", "-1"),
    ("ACCELERATE_GRADIENT_CLIPPING", "nan"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
    ("ACCELERATE_USE_FSDP", "true"),
    ("ACCELERATE_USE_MEGATRON_LM", "true"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    ("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "DATA_PARALLEL"),
    ("ACCELERATE_DOWNCAST_BF16", "1"),
    ("XLA_DOWNCAST_BF16", "1"),
    ("XLA_USE_BF16", "1"),
    ("ACCELERATE_USE_DEEPSPEED", "perhaps"),
    ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "5"),
]
SILENT = [
    ("ACCELERATE_MIXED_PRECISION", "no"),
    ("ACCELERATE_DYNAMO_BACKEND", "NO"),
    ("ACCELERATE_DYNAMO_MODE", "default"),
    ("ACCELERATE_DYNAMO_USE_FULLGRAPH", "False"),
    ("ACCELERATE_DYNAMO_USE_DYNAMIC", "False"),
    ("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "False"),
    ("ACCELERATE_USE_CPU", "False"),
    ("ACCELERATE_TORCH_DEVICE", ""),
    ("ACCELERATE_GRADIENT_CLIPPING", "none"),
    ("ACCELERATE_GRADIENT_CLIPPING", "auto"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto"),
    ("ACCELERATE_USE_FSDP", "false"),
    ("ACCELERATE_USE_MEGATRON_LM", "false"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "false"),
    ("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO"),
    ("ACCELERATE_DOWNCAST_BF16", "0"),
    ("XLA_DOWNCAST_BF16", "0"),
    ("XLA_USE_BF16", "0"),
    ("ACCELERATE_USE_DEEPSPEED", "false"),
    ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "auto"),
]
NEEDS = {
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_SAGEMAKER": "true",
}
OPTIONS = {setting.variable: setting for setting in SETTINGS}


def environment(variable: str, text: str) -> dict[str, str]:
    """The variable, and that without which Accelerate would ignore it."""
    needs = OPTIONS[variable].needs
    return ({} if needs is None else {needs: NEEDS[needs]}) | {variable: text}


def nested(field: str, value: object) -> dict[str, Any]:
    section, name = field.split(".")
    return {section: {name: value}}


def test_the_tables_of_this_file_hold_every_row() -> None:
    for rows in (SILENT, [row[:2] for row in TAKEN] + REFUSED):
        assert {variable for variable, _ in rows} == set(OPTIONS)


@pytest.mark.parametrize(("variable", "text", "field", "value", "other"), TAKEN)
def test_a_setting_is_taken_over_or_agrees_or_is_refused(
    variable: str, text: str, field: str, value: object, other: object
) -> None:
    environ = environment(variable, text)
    values, notes = apply_launcher_settings({}, environ)
    assert flatten(values)[field] == value
    assert any(note.startswith(f"{field}: ") for note in notes)
    assert flatten(apply_launcher_settings(nested(field, value), environ)[0])[field] == value
    with pytest.raises(UserError) as refused:
        apply_launcher_settings(nested(field, other), environ)
    assert field in str(refused.value)
    assert f"contradicts the launcher's {OPTIONS[variable].option} = {text}" in str(refused.value)
    assert variable in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("variable", "text"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(variable: str, text: str) -> None:
    with pytest.raises(UserError) as refused:
        apply_launcher_settings({}, environment(variable, text))
    setting = OPTIONS[variable]
    assert str(refused.value).startswith(
        f"{setting.field}: the launcher's {setting.option} = {text} is not supported; "
    )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("variable", "text"), SILENT)
def test_a_default_of_the_launcher_is_no_statement(variable: str, text: str) -> None:
    setting = OPTIONS[variable]
    default = flatten_config()[setting.field]
    needed = environment(variable, text)
    without = {name: value for name, value in needed.items() if name != variable}
    assert apply_launcher_settings({}, needed) == apply_launcher_settings({}, without)
    if without == {}:
        given = nested(setting.field, default)
        assert apply_launcher_settings(given, needed) == (given, [])


@pytest.mark.parametrize("variable", [setting.variable for setting in SETTINGS if setting.needs])
def test_what_accelerate_ignores_is_ignored(variable: str) -> None:
    text = next(text for name, text, *_ in [*TAKEN, *REFUSED] if name == variable)
    assert apply_launcher_settings({}, {variable: text}) == ({}, [])


def flatten_config() -> dict[str, Any]:
    from dydist.config.reader import to_dict

    return flatten(to_dict(Config()))


def test_a_device_left_open_is_the_launchers() -> None:
    given = {"parallel": {"device": "auto"}}
    assert apply_launcher_settings(given, {"ACCELERATE_USE_CPU": "True"})[0] == {
        "parallel": {"device": "cpu"}
    }
    assert given == {"parallel": {"device": "auto"}}


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UserError) as refused:
        apply_launcher_settings(
            {"train": {"precision": "fp32"}},
            {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true"},
        )
    assert len(str(refused.value).splitlines()) == 2


def test_no_variable_of_accelerate_is_forgotten() -> None:
    """A new version of Accelerate may bring one: it then gets a row in SETTINGS or in WITHOUT_EFFECT."""
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(accelerate.__file__).parent.rglob("*.py")
    )
    prefixes = "ACCELERATE|FSDP|FP8|XLA|PARALLELISM_CONFIG|MEGATRON_LM"
    found = {
        name for name in re.findall(rf'"((?:{prefixes})_[A-Z0-9_]+)"', sources) if not name.endswith("_")
    }
    harmless = " ".join(WITHOUT_EFFECT).split()

    def known(name: str) -> bool:
        return name in OPTIONS or any(
            name.startswith(one) if one.endswith("_") else name == one for one in harmless
        )

    assert "ACCELERATE_MIXED_PRECISION" in found
    assert not {name for name in found if not known(name)}


def launched(*options: str, config: Mapping[str, Any] | None = None, folder: Path) -> dict[str, str]:
    """The variables that Accelerate's launcher adds for these options, by its own parser."""
    if config is not None:
        (folder / "accelerate.yaml").write_text(yaml.safe_dump(dict(config)))
        options = ("--config_file", str(folder / "accelerate.yaml"), *options)
    arguments, defaults, _ = _validate_launch_command(
        launch_command_parser().parse_args([*options, "dydist/train.py"])
    )
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(
            defaults.deepspeed_config if defaults else []
        )
        environ = prepare_deepspeed_cmd_env(arguments)[1]
    elif arguments.multi_gpu or arguments.use_fsdp or arguments.use_megatron_lm:
        environ = prepare_multi_gpu_env(arguments)
    else:
        environ = prepare_simple_launcher_cmd_env(arguments)[1]
    return {name: text for name, text in environ.items() if os.environ.get(name) != text}


ONE = ("--num_processes", "1")
TWO = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.mark.parametrize("how", [ONE, TWO])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--mixed_precision", "no"], {}),
        (["--mixed_precision", "bf16"], {"train.precision": "bf16"}),
        (["--dynamo_backend", "inductor"], {"train.compile": True}),
        (
            ["--dynamo_backend", "inductor", "--dynamo_mode", "reduce-overhead"],
            {"train.compile": True, "train.compile_mode": "reduce-overhead"},
        ),
        (["--dynamo_backend", "eager"], "train.compile"),
        (["--dynamo_backend", "inductor", "--dynamo_use_fullgraph"], "train.compile"),
    ],
)
def test_options_of_accelerate_launch(how: Any, options: list[str], expected: Any, tmp_path: Path) -> None:
    environ = launched("--config_file", str(empty(tmp_path, how)), *how, *options, folder=tmp_path)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"^{re.escape(expected)}: "):
            apply_launcher_settings({}, environ)
    else:
        assert flatten(apply_launcher_settings({}, environ)[0]) == expected


def empty(folder: Path, how: Any) -> Path:
    """A configuration file of Accelerate's that says nothing, so that the user's own is not read."""
    path = folder / "nothing.yaml"
    kind = "MULTI_GPU" if "--multi_gpu" in how else "NO"
    path.write_text(f"distributed_type: '{kind}'\nnum_processes: {how[how.index('--num_processes') + 1]}\n")
    return path


def test_options_that_start_other_ways_of_training_are_refused(tmp_path: Path) -> None:
    nothing = ("--config_file", str(empty(tmp_path, TWO)))
    for option, named in (("--use_fsdp", "use_fsdp"), ("--use_megatron_lm", "use_megatron_lm")):
        environ = launched(
            *nothing, option, "--num_processes", "2", "--main_process_port", "0", folder=tmp_path
        )
        with pytest.raises(
            UserError, match=f"^parallel.engine: the launcher's {named} = true is not supported"
        ):
            apply_launcher_settings({}, environ)
    assert apply_launcher_settings({}, launched("--cpu", folder=tmp_path))[0] == {
        "parallel": {"device": "cpu"}
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"distributed_type": "NO", "mixed_precision": "bf16"}, {"train.precision": "bf16"}),
        ({"distributed_type": "MULTI_GPU", "num_processes": 2, "mixed_precision": "fp16"}, {"train.precision": "fp16"}),
        (
            {"distributed_type": "NO", "dynamo_config": {"dynamo_backend": "INDUCTOR", "dynamo_mode": "max-autotune"}},
            {"train.compile": True, "train.compile_mode": "max-autotune"},
        ),
        (
            {"distributed_type": "NO", "dynamo_config": {"dynamo_backend": "INDUCTOR", "dynamo_use_dynamic": True}},
            "train.compile",
        ),
        ({"distributed_type": "NO", "use_cpu": True}, {"parallel.device": "cpu"}),
        ({"distributed_type": "NO", "downcast_bf16": "no"}, {}),
        (
            {"distributed_type": "FSDP", "num_processes": 2, "fsdp_config": {"fsdp_version": 2}},
            "parallel.engine",
        ),
        (
            {"distributed_type": "MEGATRON_LM", "num_processes": 2, "megatron_lm_config": {}},
            "parallel.engine",
        ),
        (
            {
                "distributed_type": "DEEPSPEED",
                "num_processes": 2,
                "mixed_precision": "bf16",
                "deepspeed_config": {
                    "zero_stage": 3, "gradient_clipping": 1.0, "gradient_accumulation_steps": 1,
                    "offload_optimizer_device": "cpu", "offload_param_device": "cpu",
                    "zero3_init_flag": True, "zero3_save_16bit_model": True,
                },
            },
            {
                "train.precision": "bf16", "train.clip_norm": 1.0, "parallel.engine": "deepspeed",
                "parallel.zero": 3, "parallel.offload": "all",
            },
        ),
        (
            {
                "distributed_type": "DEEPSPEED",
                "num_processes": 2,
                "deepspeed_config": {"zero_stage": 2, "gradient_accumulation_steps": 4},
            },
            "parallel.shards",
        ),
    ],
)  # fmt: skip
def test_a_file_of_accelerate_config(config: dict[str, Any], expected: Any, tmp_path: Path) -> None:
    common = {
        "compute_environment": "LOCAL_MACHINE",
        "main_process_port": 0,
        "machine_rank": 0,
        "num_machines": 1,
    }
    environ = launched(config=common | config, folder=tmp_path)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"^{re.escape(expected)}: "):
            apply_launcher_settings({}, environ)
        return
    values, _ = apply_launcher_settings({}, environ)
    assert flatten(values) == expected
    assert flatten_config().keys() >= expected.keys()
    check_config(build(Config, values), world_size=1)


def test_deepspeeds_own_file_is_taken_over_where_dydist_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    file = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}},
        "bf16": {"enabled": True}, "fp16": {"enabled": False}, "gradient_clipping": "auto",
    }  # fmt: skip
    path.write_text(json.dumps(file))
    environ = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    values, notes = apply_launcher_settings({"train": {"clip_norm": 2.0}}, environ)
    assert flatten(values) == {
        "train.clip_norm": 2.0, "train.precision": "bf16",
        "parallel.engine": "deepspeed", "parallel.zero": 3, "parallel.offload": "param",
    }  # fmt: skip
    assert len(notes) == 4


@pytest.mark.long
def test_accelerate_launch_in_bf16_trains_in_bf16(tmp_path: Path) -> None:
    """By Accelerate's real launcher: one process and two, taken over, told, and refused beside another value."""
    small = (
        "--config quickstart --train.max_steps 2 --data.limit 64 --train.batch_size 32 --model.width 0.0625 "
        f"--parallel.shards 2 --run.dir {tmp_path}"
    ).split()
    for name, how in (("one", ONE), ("two", TWO)):
        start = [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(empty(tmp_path, how)), *how,
            "--mixed_precision", "bf16", "dydist/train.py", *small, "--run.name", name,
        ]  # fmt: skip
        done = subprocess.run(start, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("train.precision: bf16, from the launcher's mixed_precision") == 1
        written = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert written["train"]["precision"] == "bf16"
    refused = subprocess.run(
        [*start, "--train.precision", "fp32"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "train.precision: fp32 contradicts the launcher's mixed_precision = bf16" in refused.stderr
