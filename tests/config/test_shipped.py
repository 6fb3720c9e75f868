"""Recipes, launch files and profiles are found by path or name, from any folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dydist.cli.main import main
from dydist.config.reader import read_config
from dydist.config.shipped import RECIPES, find_file, shipped_files
from dydist.errors import UserError
from dydist.jobs.submission.submit import recipe_of, with_recipe
from helpers.support import REPOSITORY


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_of_the_repository_is_there() -> None:
    here = {
        path for folder in ("launch", "slurm") for path in (REPOSITORY / folder).rglob("*") if path.is_file()
    }
    assert {REPOSITORY / name for name in shipped_files()} == {path for path in here if path.suffix != ".pyc"}


def test_bare_names_are_unambiguous() -> None:
    names = [path.stem for path in shipped_files().values() if path.suffix == ".yaml"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["quickstart", "launch/recipes/quickstart.yaml"])
def test_a_recipe_is_found(name: str) -> None:
    assert read_config(["--config", name]).run.name == "quickstart"
    assert (
        find_file(name, RECIPES).read_bytes() == (REPOSITORY / "launch/recipes/quickstart.yaml").read_bytes()
    )
    assert recipe_of(with_recipe([name])) == recipe_of([f"--config={name}"]) == find_file(name)


def test_ones_own_file_comes_first(elsewhere: Path) -> None:
    (elsewhere / "quickstart").write_text("run: {name: mine}")
    assert read_config(["--config", "quickstart"]).run.name == "mine"


def test_what_is_no_recipe_is_told_with_where_to_look() -> None:
    with pytest.raises(UserError, match=r"cannot read cpu_2 .*`dydist files`"):
        read_config(["--config", "cpu_2"])  # a launch file's bare name


def test_the_command_lists_them_and_says_where_one_lies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["files"]) == 0
    assert "launch/cpu_2.yaml\n" in capsys.readouterr().out
    assert main(["files", "cpu_2"]) == 0
    assert Path(capsys.readouterr().out.strip()).samefile(REPOSITORY / "launch" / "cpu_2.yaml")
    assert main(["files", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == shipped_files().keys()
    assert main(["files", "cpu_3"]) == 2
    assert "files: there is no 'cpu_3'" in capsys.readouterr().err


def test_a_profile_is_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("submit --dry-run --profile gpu-node -- cifar10".split()) == 0
    assert "#SBATCH" in capsys.readouterr().out
