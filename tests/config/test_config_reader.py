"""A recipe, flags over it, and back to a file: the same configuration."""

from __future__ import annotations

import ast
import itertools
import json
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from dydist.config import Config
from dydist.config.reader import fields, from_dict, read_config, to_yaml
from dydist.config.rules import check_config
from dydist.config.types import is_path
from dydist.errors import UserError
from dydist.run.folder import public_values
from helpers.support import REPOSITORY

RECIPES = sorted((REPOSITORY / "launch" / "recipes").glob("*.yaml"))


def test_the_defaults_are_the_original_recipe() -> None:
    config = read_config([])
    assert config == Config()
    assert (config.data.name, config.model.kernels, config.model.reduction) == ("cifar10", 4, 0.25)
    assert (config.temperature.start, config.temperature.end, config.temperature.epochs) == (30, 1, 10)
    assert (config.optim.lr, config.optim.momentum, config.optim.gamma) == (0.1, 0.9, 0.1)
    assert config.optim.milestones == (0.5, 0.75, 0.85)
    assert (config.model.dropout, config.train.batch_size, config.train.epochs) == (0.1, 128, 40)


def test_flags_go_over_the_file_in_either_spelling(tmp_path: Path) -> None:
    recipe = tmp_path / "a.yaml"
    recipe.write_text("optim: {lr: 0.5, momentum: 0.8}\ntrain: {epochs: 3}\n")
    config = read_config(
        ["--config", str(recipe), "--optim.lr", "1e-3", "--train.batch-size=64", "--seed", "7"]
    )
    assert (config.optim.lr, config.optim.momentum, config.train.epochs) == (0.001, 0.8, 3)
    assert (config.train.batch_size, config.seed) == (64, 7)


def test_values_are_written_as_in_yaml() -> None:
    config = read_config(
        [
            *("--optim.milestones", "0.2,0.4", "--train.clip_norm", "null", "--data.augment", "false"),
            *(
                "--checkpoint.storage_options",
                "{anon: true}",
                "--checkpoint.resume",
                "100",
                "--run.name",
                "12",
            ),
        ]
    )
    assert config.optim.milestones == (0.2, 0.4)
    assert config.train.clip_norm is None
    assert config.data.augment is False
    assert config.checkpoint.storage_options == {"anon": True}
    assert (config.checkpoint.resume, config.run.name) == ("100", "12")


def test_steps_to_profile_need_no_quotes(tmp_path: Path) -> None:
    """YAML 1.1 would take 10:20 for 620, a number of base 60."""
    recipe = tmp_path / "a.yaml"
    recipe.write_text("train: {profile: 10:20}\n")
    config = read_config(["--config", str(recipe)])
    assert config.train.profile == "10:20"
    check_config(config)
    recipe.write_text(to_yaml(config))
    assert read_config(["--config", str(recipe)]) == config
    with pytest.raises(UserError, match="seed: '1:10' is not allowed"):
        read_config(["--seed", "1:10"])


def test_what_is_written_is_taken_back(tmp_path: Path) -> None:
    config = read_config(["--optim.milestones", "[0.1]", "--data.limit", "99", "--model.width", "0.5"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.stem for recipe in RECIPES])
def test_every_recipe_is_valid(recipe: Path) -> None:
    config = read_config(["--config", str(recipe)])
    check_config(config)
    assert config.run.name == recipe.stem


def test_the_help_shows_every_field_with_its_line() -> None:
    script = [sys.executable, str(REPOSITORY / "dydist" / "train.py"), "--help"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, env={"COLUMNS": "100"})
    for path, _, _ in fields():
        assert f"--{path} " in done.stdout, path
    assert "Example: accelerate launch" in done.stdout
    assert "(default: 0.1)" in done.stdout


def test_every_field_has_a_line_under_it() -> None:
    tree = ast.parse((REPOSITORY / "dydist" / "config" / "schema.py").read_text())
    for section in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        for field, after in itertools.pairwise(section.body):
            if isinstance(field, ast.AnnAssign) and field.value is not None and section.name != "Config":
                assert isinstance(after, ast.Expr), f"{section.name}.{ast.unparse(field.target)}"
                assert isinstance(after.value, ast.Constant)


PATHS = [
    "run.dir", "data.root", "checkpoint.url", "checkpoint.resume", "checkpoint.stage_dir", "monitor.logdir",
    "monitor.prometheus_file", "model.weights",
]  # fmt: skip


def test_every_field_that_holds_a_path_is_marked() -> None:
    marked = [path for path, kind, _ in fields() if is_path(kind)]
    assert sorted(marked) == sorted(PATHS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", ["flag", "recipe", "state.json"])
def test_paths_get_one_form_where_they_are_read(
    path: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    monkeypatch.setenv("WHERE", "elsewhere")
    root = pwd.getpwuid(0)
    for text, normal in (
        ("~", "/home/of/me"),
        ("~/x/", "/home/of/me/x"),
        (f"~{root.pw_name}/x", f"{root.pw_dir}/x"),
        ("a/b//", "a/b"),
        ("/", "/"),
        ("./~", "./~"),
        ("$WHERE/x", "$WHERE/x"),
        ("s3://bucket/~/x/", "s3://bucket/~/x"),
    ):
        section, name = path.split(".")
        if way == "flag":
            config = read_config([f"--{path}={text}"])
        elif way == "recipe":
            (tmp_path / "a.yaml").write_text(json.dumps({section: {name: text}}))
            config = read_config(["--config", str(tmp_path / "a.yaml")])
        else:
            config = from_dict({section: {name: text}}, "state.json")
        assert getattr(getattr(config, section), name) == normal


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is empty; give a path"),
        ("  ", "'  ' is empty; give a path"),
        ("~nobody-of-that-name/x", "there is no user 'nobody-of-that-name'"),
        ("a\nb", "a path has no control characters"),
        ("a\x1b[31m", "a path has no control characters"),
        ("a\udcff", "it must be text in UTF-8"),
    ],
)
def test_paths_that_are_none(path: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config([f"--{path}", text])
    assert f"{path}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_flag_that_is_given_twice_the_last_counts() -> None:
    assert read_config(["--seed", "1", "--train.epochs", "3", "--seed=2"]).seed == 2


def test_options_of_a_factory_are_shown_but_for_those_with_a_secrets_name() -> None:
    config = read_config(
        ["--data.name", "factory", "--data.factory", "a:b", "--data.options", "{folder: scans, token: abc}"]
    )
    assert from_dict(public_values(config), "config.yaml").data.options == {
        "folder": "scans",
        "token": "<hidden>",
    }
    assert hash(config.data) == hash(read_config(["--data.name", "factory", "--data.factory", "a:b"]).data)
