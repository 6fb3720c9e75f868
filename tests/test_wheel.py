"""A wheel works without the repository: commands, a run, recipes, launch files and profiles, from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dydist.config.shipped import shipped_files
from helpers.support import REPOSITORY, metrics

SMALL = "--train.max_steps 3 --data.limit 128 --model.width 0.125 --monitor.every_steps 1".split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dydist's wheel, built from a copy of the sources, so that nothing is left lying about in the repository."""
    root = tmp_path_factory.mktemp("source")
    for folder in ("dydist", "launch", "slurm"):
        shutil.copytree(
            REPOSITORY / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(REPOSITORY / file, root / file)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    subprocess.run([*build, str(root)], check=True, capture_output=True)
    (found,) = out.glob("dydist-*.whl")
    return found


def run(python: Path, folder: Path, *words: str) -> str:
    """What a command of that environment prints; no variable or folder leads to the repository."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DYDIST_", "XDG_"))
    }
    environment = {**kept, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(
        words,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def exercise(python: Path, folder: Path, launchers: Sequence[str]) -> None:
    """Must show 5: help, a digits run, a dry run; then the files that come along."""
    where = run(python, folder, "python", "-c", "import dydist; print(dydist.__file__)").strip()
    assert Path(where).is_relative_to(python.parents[1])
    assert "submit" in run(python, folder, "dydist", "--help")
    assert set(json.loads(run(python, folder, "dydist", "files", "--json"))) == set(shipped_files())
    for name in launchers:
        file = run(python, folder, "dydist", "files", name).strip()
        launch = ["accelerate", "launch", "--quiet", "--config_file", file, "-m", "dydist.train"]
        run(python, folder, *launch, "--config", "quickstart", "--run.name", name, *SMALL)
        assert [line["step"] for line in metrics(folder / "runs" / name)] == [1, 2, 3]
    dry = run(python, folder, "dydist", "submit", "--dry-run", "--profile", "gpu-node", "--", "cifar10")
    assert "#SBATCH --gpus-per-node=8" in dry
    assert f"{Path(where).parents[1]}" not in dry  # nodes run the copy that submission takes


def test_a_wheel_holds_every_file(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"dydist/files/{name}" for name in shipped_files()} <= set(names)
    sources = [
        path for path in (REPOSITORY / "dydist").rglob("*") if path.is_file() and path.suffix != ".pyc"
    ]
    assert {path.relative_to(REPOSITORY).as_posix() for path in sources} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs"))]


@pytest.mark.long
def test_a_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees this one's packages, all but dydist."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    here = Path(sysconfig.get_path("purelib"))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    for package in here.iterdir():
        if "dydist" not in package.name and package.suffix != ".pth":
            (site / package.name).symlink_to(package)
    python = home / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--quiet",
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    for script in ("accelerate", "accelerate-launch"):
        text = (Path(sys.executable).parent / script).read_text()
        (home / "bin" / script).write_text(f"#!{python}\n" + text.partition("\n")[2])
        (home / "bin" / script).chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    exercise(python, elsewhere, ["cpu_1"])


@pytest.mark.long
def test_a_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Everything from the registry, as a user has it. Gigabytes: `bash tests/run.sh -m long tests/test_wheel.py`."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    constraints = tmp_path / "constraints.txt"
    shutil.copy(REPOSITORY / "constraints.txt", constraints)
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), f"{wheel}[demo,slurm]"]
    subprocess.run(install, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    exercise(python, elsewhere, ["cpu_1", "cpu_2"])
