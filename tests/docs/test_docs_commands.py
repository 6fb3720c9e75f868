"""What the pages show runs: python in this process, bash in a folder that looks like a checkout."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dydist.cli.main import commands
from helpers.pages import Block, blocks, pages
from helpers.shell_words import mistakes, split
from helpers.support import REPOSITORY

SHOWN = [
    block
    for page in pages()
    for block in blocks(page)
    if block.language == "diff" or (block.language == "bash" and block.mark != "run")
]
TO_RUN = {page: [block for block in blocks(page) if block.mark == "run"] for page in pages()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=pytest.mark.long if page == "docs/quickstart.md" else ()
        )  # a dozen processes
        for page, found in TO_RUN.items()
        if found
    ],
)
def test_what_is_marked_run_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in order; python blocks share their names, bash blocks their folder."""
    for name in ("dydist", "launch", "slurm", "docs", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in TO_RUN[page]:
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("\n" * block.line + block.text, page, "exec"), names)
        else:
            run(block, tmp_path)


def test_safetensors_alone_opens_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/saving.md, on the checkpoint that the format's tests keep."""
    (code,) = [block.text for block in blocks("docs/saving.md") if block.language == "python"]
    kept = REPOSITORY / "tests" / "checkpoint" / "format-1" / "step-000000042"
    (tmp_path / "step-000001234").symlink_to(kept)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["weights"]
    assert all(isinstance(tensor, torch.Tensor) for tensor in names["weights"].values())


def test_the_newest_checkpoint_is_read_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/api/checkpoint.md, on the checkpoint that the format's tests keep."""
    (code,) = [block.text for block in blocks("docs/api/checkpoint.md") if block.language == "python"]
    (tmp_path / "runs" / "cifar10").mkdir(parents=True)
    (tmp_path / "runs" / "cifar10" / "checkpoints").symlink_to(
        REPOSITORY / "tests" / "checkpoint" / "format-1"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert printed.getvalue().startswith("42 [")
    assert names["state"].model


def run(block: Block, folder: Path) -> None:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DYDIST_"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env={**kept, "PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_dydist_takes_every_command_that_is_shown(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    text = block.text
    for name, value in re.findall(r"^export (\w+)=(\S+)", text, re.MULTILINE):
        monkeypatch.setenv(name, value)
    if block.language == "diff":  # what it is replaced with, where that is a command
        text = "\n".join(re.findall(r"^\+((?:accelerate|dydist|python) .*)", text, re.MULTILINE))
    wrong = {" ".join(words): found for words in split(text) if (found := list(mistakes(words)))}
    assert not wrong


@pytest.mark.parametrize("command", commands())
def test_the_example_in_a_commands_help_is_one_that_it_takes(command: str) -> None:
    examples = re.findall(
        r"^Example: (.+(?:\\\n.+)*)", inspect.getdoc(commands()[command]) or "", re.MULTILINE
    )
    assert examples, f"`dydist {command} --help` has no example"
    assert [problem for one in examples for words in split(one) for problem in mistakes(words)] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dydist submitt --nodes 2 -- quickstart", "submitt"),
        ("dydist submit --nodez 2 -- quickstart", "nodez"),
        ("dydist submit --nodes 2 -- quickstart --optim.lrr 0.1", "optim.lr"),
        ("dydist submit --nodes 4 --gpus-per-node 8 -- cifar10", "32 processes"),
        (
            "accelerate launch --config_file launch/gpu_8.yaml dydist/train.py --parallel.shards 4",
            "8 processes",
        ),
        ("A=1 accelerate launch --config_file launch/cpu_9.yaml dydist/train.py …", "launch/cpu_9.yaml"),
        ("accelerate launch -m dydist.train --config launch/recipes/none.yaml", "cannot read"),
        ("python dydist/train.py --train.batch_size 100 | tee log", "train.batch_size"),
        ("ls && dydist checkpoint lst a # a comment", "lst"),
    ],
)
def test_a_command_that_dydist_would_refuse_is_found(line: str, said: str) -> None:
    assert said in str([problem for words in split(line) for problem in mistakes(words)])
