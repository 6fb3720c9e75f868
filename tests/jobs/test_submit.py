"""What sbatch is given: golden texts. DYDIST_WRITE_GOLDEN=1 writes them anew; read the difference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dydist.errors import UserError
from dydist.jobs.submission.profile import parse_profile
from dydist.jobs.submission.sbatch import Submission, sbatch_text
from dydist.jobs.submission.submit import (
    _fill_folder,
    make_spec,
    node_commands,
    prepare_run,
    recipe_of,
    with_recipe,
)

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("/shared/runs/r/submissions/s")
PROFILES: dict[str, str] = {
    "defaults": "{}",
    "gpu-site": "{partition: gpu, account: lab, qos: long, constraint: a100&ib, gpus_per_node: 8, cpus_per_task: 64}",
    "cpu": "{gpus_per_node: 0, processes_per_node: 2, mem: 8G, nodes: 2}",
    "fewer-nodes": "{nodes: 8, min_nodes: 2, gpus_per_node: 4, time: 1-12:00:00}",
    "gres": "{gres: 'gpu:a100:4', gpus_per_node: 4, exclusive: true}",
    "modules-and-environment": (
        "{modules: [cuda/12.4, gcc], env: {NCCL_DEBUG: INFO, GREETING: 'it''s'}, setup: ['ulimit -n 65536']}"
    ),
    "container": "{container: apptainer exec --nv image.sif, interface: ib0}",
    "any-sbatch-option": (
        "{sbatch: {reservation: night, mail_type: END, hold: true, spread-job: false}, srun: [--mpi=none]}"
    ),
    "no-requeue": "{requeue: false, warning_s: 300, time: '90'}",
}


def submission(text: str, runs: int = 1, **more: Any) -> Submission:
    profile = parse_profile({"python": "python3", **yaml.safe_load(text)}, "test")
    spec = make_spec(profile, ["--optim.lr", "0.2"], run_dir=Path("/shared/runs/r"), folder=FOLDER)
    return Submission(
        cluster="slurm", profile=profile, name="r", comment="dydist:/shared/runs/r", folder=FOLDER,
        submitit=Path("/shared/runs/r/logs/tasks"), specs=(spec,) * runs, **more,
    )  # fmt: skip


def assert_golden(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.sbatch"
    if os.environ.get("DYDIST_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_sbatch_text_of_a_profile(name: str) -> None:
    assert_golden(name, sbatch_text(submission(PROFILES[name])))


def test_sbatch_text_of_a_sweep() -> None:
    assert_golden("sweep", sbatch_text(submission("{gpus_per_node: 1}", runs=12, parallel=4)))


def test_commands_of_the_nodes() -> None:
    spec = submission("{gpus_per_node: 2}").specs[0]
    first, second = node_commands(spec, nodes=2)
    assert first.startswith(
        "python3 -u -m accelerate.commands.launch --num_machines=2 --machine_rank=0 --num_processes=4 "
    )
    assert "--machine_rank=1 " in second
    assert first.endswith(f"{FOLDER}/code/dydist/train.py --optim.lr 0.2")


def test_one_process_needs_no_launcher() -> None:
    spec = submission("{gpus_per_node: 1}").specs[0]
    assert node_commands(spec, nodes=1) == [f"python3 -u {FOLDER}/code/dydist/train.py --optim.lr 0.2"]


def test_a_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {name: named}\n")
    words = [str(recipe), "--run.dir", str(tmp_path)]
    profile = parse_profile({"gpus_per_node": 1}, "test")
    prepared = prepare_run(words, profile, cluster="slurm")
    assert prepared.specs[0].arguments[:2] == ("--config", str(prepared.folder / "recipe.yaml"))
    assert prepared.specs[0].run_dir == str(tmp_path / "named")
    assert recipe_of(with_recipe(words)) == recipe
    assert recipe_of(["--seed", "1"]) is None


@pytest.mark.parametrize(
    ("words", "nodes", "message"),
    [
        (["--optim.rl", "1"], 1, "did you mean optim.lr"),
        (["--parallel.shards", "4"], 8, "4 shards cannot be shared by 8 processes"),
        (["nowhere.yaml"], 1, "cannot read nowhere.yaml"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_queued(
    words: list[str], nodes: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare_run(words, parse_profile({"nodes": nodes}, "test"), cluster="slurm")


def test_the_modules_of_both_factories_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("my_network", "my_images", "my_scans"):
        (tmp_path / f"{name}.py").write_text("def make(*given): ...\n")
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {name: factory, factory: my_images:make}\n")
    flags = ["--model.factory", "my_network:make", "--data.factory=my_scans:make"]
    prepared = prepare_run(
        [str(recipe), "--run.dir", str(tmp_path / "runs"), *flags],
        parse_profile({"gpus_per_node": 1}, "test"),
        cluster="slurm",
    )
    _fill_folder(prepared, recipe)
    assert len(list((prepared.folder / "code").glob("my_*.py"))) == 3
