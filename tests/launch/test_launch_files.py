"""The DeepSpeed files of launch/: read by Accelerate's and DeepSpeed's parsers, held against dydist's fields."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from dydist.config import Config, ParallelConfig, TrainConfig
from dydist.config.reader import to_dict
from dydist.config.rules import check_config
from dydist.engine.deepspeed_config import deepspeed_config
from dydist.errors import UserError
from dydist.process.launcher_settings import apply_launcher_settings
from helpers.support import REPOSITORY, metrics

LAUNCH = REPOSITORY / "launch"
FILES = {
    **{f"deepspeed_zero{stage}_cpu.yaml": (stage, "none", 2) for stage in range(4)},
    "deepspeed_zero2_gpu_8.yaml": (2, "none", 8),
    "deepspeed_zero3_multi_node.yaml": (3, "none", 16),
    "deepspeed_zero3_offload.yaml": (3, "all", 8),
}


def config_for(stage: int, offload: str, **train: object) -> Config:
    parallel = ParallelConfig(engine="deepspeed", zero=stage, offload=offload, shards=16)  # type: ignore[arg-type]
    return Config(parallel=parallel, train=TrainConfig(batch_size=128, **train))  # type: ignore[arg-type]


def environment_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that `accelerate launch --config_file path` gives its processes."""
    monkeypatch.chdir(REPOSITORY)
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "dydist/train.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return prepare_deepspeed_cmd_env(arguments)[1]


def test_every_deepspeed_file_is_tested() -> None:
    assert {path.name for path in LAUNCH.glob("deepspeed_*.yaml")} == set(FILES)
    named = {
        str(load_config_from_file(str(LAUNCH / n)).deepspeed_config.get("deepspeed_config_file"))
        for n in FILES
    }
    assert {f"launch/deepspeed/{p.name}" for p in (LAUNCH / "deepspeed").iterdir()} == named - {"None"}


@pytest.mark.parametrize("name", FILES)
def test_parsers_take_the_file_and_dydist_agrees_with_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, offload, processes = FILES[name]
    assert load_config_from_file(str(LAUNCH / name)).num_processes == processes
    environment = environment_of(LAUNCH / name, monkeypatch)
    config = config_for(stage, offload)
    check_config(config, world_size=processes)
    apply_launcher_settings(to_dict(config), environment)
    made = deepspeed_config(config, processes, environment)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    parsed = DeepSpeedConfig({**made, "train_batch_size": made["train_micro_batch_size_per_gpu"]})
    assert parsed.zero_optimization_stage == stage
    for there in (parsed.zero_config.offload_optimizer, parsed.zero_config.offload_param):
        assert (there is not None and there.device == "cpu") == (offload == "all")
    assert parsed.gradient_accumulation_steps == 1
    path = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if path is not None:  # what dydist leaves open is the file's
        bucket = json.loads(Path(path).read_text())["zero_optimization"]["reduce_bucket_size"]
        assert parsed.zero_config.reduce_bucket_size == bucket


@pytest.mark.parametrize(
    ("change", "field", "named"),
    [
        ({"zero_optimization": {"stage": 3}}, "parallel.zero", "zero_optimization.stage"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "parallel.offload",
            "cpu",
        ),
        ({"train_batch_size": 256}, "train.batch_size", "train_batch_size"),
        ({"train_micro_batch_size_per_gpu": 7}, "train.batch_size", "train_micro_batch_size_per_gpu"),
        ({"gradient_accumulation_steps": 4}, "parallel.shards", "gradient_accumulation_steps"),
        ({"gradient_clipping": 2.0}, "train.clip_norm", "gradient_clipping"),
        ({"bf16": {"enabled": True}}, "train.precision", "bf16.enabled"),
        ({"fp16": {"enabled": True}}, "train.precision", "fp16.enabled"),
        ({"optimizer": {"type": "AdamW"}}, "optim", "optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "optim.schedule", "scheduler"),
    ],
)
def test_a_file_that_contradicts_is_refused_with_both_fields(
    change: dict, field: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **change}))
    environment = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path),
        "WORLD_SIZE": "2",
    }
    with pytest.raises(UserError, match=rf"^{field}.*{named}"):
        apply_launcher_settings(to_dict(config_for(2, "none")), environment)


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3", "parallel.zero"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "parallel.offload"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "parallel.offload"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", "train.clip_norm"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2", "parallel.shards"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "train.precision"),
    ],
)
def test_a_launcher_flag_that_contradicts_is_refused(variable: str, value: str, field: str) -> None:
    with pytest.raises(UserError, match=rf"^{field}: .*launcher's .* = {value} ?(is not supported)?;"):
        apply_launcher_settings(
            to_dict(config_for(2, "none")), {"ACCELERATE_USE_DEEPSPEED": "true", variable: value}
        )


def test_what_agrees_or_says_nothing_passes() -> None:
    config = config_for(3, "optimizer", clip_norm=1.0, precision="bf16")
    apply_launcher_settings(to_dict(config), {})
    apply_launcher_settings(
        to_dict(config),
        {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
            "ACCELERATE_GRADIENT_CLIPPING": "1.0",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            "ACCELERATE_MIXED_PRECISION": "no",
        },
    )


def test_deepspeeds_launcher_with_another_engine_is_refused() -> None:
    config = replace(config_for(0, "none"), parallel=ParallelConfig())
    with pytest.raises(
        UserError, match=r"^parallel\.engine: ddp contradicts the launcher's use_deepspeed = true"
    ):
        apply_launcher_settings(to_dict(config), {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_what_two_places_keep_in_host_memory_is_one_field(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"offload_param": {"device": "cpu"}}}))
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    optimizer, param = (f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind}_DEVICE" for kind in ("OPTIMIZER", "PARAM"))
    for variables, offload in (({}, "param"), ({optimizer: "cpu"}, "all"), ({optimizer: "none"}, "param")):
        values, _ = apply_launcher_settings({}, environment | variables)
        assert values["parallel"]["offload"] == offload
    for variables in ({param: "none"}, {optimizer: "nvme"}):
        with pytest.raises(UserError, match=r"^parallel\.offload: "):
            apply_launcher_settings({}, environment | variables)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
    ],
)
def test_a_file_that_is_none_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    if text is not None:
        path.write_text(text)
    environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    with pytest.raises(UserError, match=rf"^deepspeed_config_file: .*{said}.*zero2\.json"):
        apply_launcher_settings(to_dict(config_for(2, "none")), environment)


def accelerate_launch(file: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(LAUNCH / file), "--main_process_port", "0", "dydist/train.py"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )


def deepspeed_launch(data: Path, runs: Path, zero: int) -> subprocess.CompletedProcess[str]:
    small = (
        *("--data.root", data, "--data.limit", 128, "--train.batch_size", 32, "--train.max_steps", 2),
        *("--run.dir", runs, "--run.name", "ds", "--model.width", "0.125", "--parallel.device", "cpu"),
        *("--parallel.engine", "deepspeed", "--parallel.zero", zero),
    )
    return accelerate_launch("deepspeed_zero2_cpu.yaml", *small)


@pytest.mark.long
def test_the_documented_command_runs(cifar10_exact_root: Path, tmp_path: Path) -> None:
    done = deepspeed_launch(cifar10_exact_root, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "ds")[-1]["step"] == 2


@pytest.mark.slow
def test_a_contradiction_to_the_launcher_is_told(cifar10_exact_root: Path, tmp_path: Path) -> None:
    wrong = deepspeed_launch(cifar10_exact_root, tmp_path, 3)
    assert wrong.returncode != 0
    assert "parallel.zero: 3 contradicts the launcher's zero_stage = 2" in wrong.stderr + wrong.stdout
