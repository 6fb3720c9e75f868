"""The commands in a block of bash, as words, and whether dydist would take them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import yaml

from dydist.cli.main import parse
from dydist.config.reader import read_config
from dydist.config.rules import check_config
from dydist.config.shipped import shipped_files
from dydist.errors import UserError
from dydist.jobs.submission.submit import with_recipe

ELLIPSIS = ("…", "...")


def split(block: str) -> list[list[str]]:
    """The words of every simple command in a block; comments, here documents and redirections are left out."""
    block = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", block, flags=re.DOTALL).replace("\\\n", " ")
    found: list[list[str]] = []
    for line in block.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip("|&;"):
                words.append(word)
            elif words:
                found.append(words[: words.index(">")] if ">" in words else words)
                words = []
    return found


def mistakes(words: Sequence[str]) -> Iterator[str]:
    """What dydist would not take of a command: an unknown subcommand, flag or field, a file that is not there."""
    words = [word for word in words if word not in ELLIPSIS]
    while words and re.match(r"^\w+=", words[0]):
        words = words[1:]
    if not words:
        return
    world_size = 1
    if (launch_file := _after(words, "--config_file")) and not launch_file.startswith("$"):
        if launch_file not in shipped_files():
            yield f"there is no {launch_file}"
        else:
            world_size = yaml.safe_load(shipped_files()[launch_file].read_text())["num_processes"]
    trainer = next((at for at, word in enumerate(words) if word in ("dydist/train.py", "dydist.train")), None)
    if trainer is not None:
        yield from _configuration(words[trainer + 1 :], world_size)
    elif PurePosixPath(words[0]).name == "dydist":
        yield from _subcommand(words[1:])
        if words[1:2] in (["submit"], ["sweep"]) and "--" in words:
            ours = words[: words.index("--")]
            each = "--processes-per-node" if "--cpu" in ours else "--gpus-per-node"
            world_size = int(_after(ours, "--nodes") or 1) * int(_after(ours, each) or 1)
            yield from _configuration(with_recipe(words[words.index("--") + 1 :]), world_size)


def _after(words: Sequence[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def _configuration(arguments: Sequence[str], world_size: int) -> Iterator[str]:
    """A run's flags, read and checked. A run's own config.yaml is not there before it has run."""
    if "--help" in arguments or (_after(arguments, "--config") or "").startswith("runs/"):
        return
    try:
        check_config(read_config(arguments), world_size=world_size)
    except UserError as error:
        yield str(error)


def _subcommand(arguments: Sequence[str]) -> Iterator[str]:
    """Have the command line parsed; nothing is called."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parse(list(arguments))
    except UserError as error:
        yield str(error)
    except SystemExit:
        pass  # its help
