"""Odd environments: each command runs, or says in one line what is wrong and exits 2. No traceback, nothing empty."""

from __future__ import annotations

import ast
import codecs
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dydist.cli.main import commands
from dydist.machine import home_folder, temporary_folder, user_folder
from helpers.support import REPOSITORY, missing

SMALL = (
    "--config quickstart --train.max_steps 4 --data.limit 128 --train.batch_size 32 --model.width 0.0625 "
    "--parallel.shards 2 --checkpoint.every_steps 2"
).split()
LOCALES = {"zh_CN": "GBK", "ja_JP": "EUC-JP", "de_DE": "ISO-8859-1"}


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled locales of other encodings, as a system has them that people set up in their language."""
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/charmaps").is_dir():
        missing("localedef with /usr/share/i18n (apt-get install -y locales)")
    folder = tmp_path_factory.mktemp("locales")
    for name, encoding in LOCALES.items():
        target = str(folder / f"{name}.{encoding}")
        subprocess.run(["localedef", "--no-archive", "-i", name, "-f", encoding, target], capture_output=True)
        assert Path(target).is_dir()
    return folder


def without(*names: str, **more: str) -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name not in names} | more


def run(*command: str, env: dict[str, str], cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, timeout=400)


def trained(folder: Path, *before: str, env: dict[str, str], cwd: Path = REPOSITORY) -> bytes:
    """Train a few steps; what was printed, once it is known that all went well."""
    program = str(REPOSITORY / "dydist" / "train.py")
    done = run(*before, sys.executable, program, *SMALL, "--run.dir", str(folder), env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert b"done: step 4" in done.stdout
    return done.stdout


POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ODD = [
    POSIX,
    {"PYTHONIOENCODING": "ascii:strict"},
    {"COLUMNS": "0", "LINES": "0"},
    {"COLUMNS": "²"},
    {"TERM": "dumb", "NO_COLOR": "1"},
    {"TMPDIR": "/nonexistent"},
    {"HOME": "/nonexistent"},
    {"OMP_NUM_THREADS": "abc"},
]
ALL_AT_ONCE = {name: text for more in ODD[2:] for name, text in more.items()}
"""What goes together with any locale."""


@pytest.mark.long  # the ordinary suite tries them together, below
@pytest.mark.parametrize("more", ODD, ids=lambda more: " ".join(more))
def test_training_runs_in(more: dict[str, str], tmp_path: Path) -> None:
    """Where it could matter the cache is empty, so that the kernels' sources are read and compiled here."""
    cache = {"DYDIST_CACHE": str(tmp_path / "cache")} if more is POSIX or [*more] == ["TMPDIR"] else {}
    trained(tmp_path, env=without("LC_ALL", "LANG") | cache | more)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if place else ()) for place, name in enumerate(LOCALES)],
)
def test_training_and_help_in_a_locale_of_another_encoding(name: str, locales: Path, tmp_path: Path) -> None:
    env = without("LANG") | {"LOCPATH": str(locales), "LC_ALL": f"{name}.{LOCALES[name]}"}
    said = (
        run(sys.executable, "-c", "import sys; print(sys.stdout.encoding)", env=env).stdout.decode().strip()
    )
    assert codecs.lookup(said) == codecs.lookup(LOCALES[name])
    trained(tmp_path, env=env | ALL_AT_ONCE)
    assert yaml.safe_load((tmp_path / "quickstart" / "config.yaml").read_text(encoding="utf-8"))
    for words in (["dydist/train.py"], ["-m", "dydist.cli.main"], ["-m", "dydist.cli.main", "evaluate"]):
        done = run(sys.executable, *words, "--help", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(done.stdout.splitlines()) > 10


@pytest.mark.long
def test_training_for_a_user_whom_nobody_knows(tmp_path: Path) -> None:
    """A container's numeric user: no entry in passwd, no HOME, no USER; and a home folder that cannot be written."""
    if run("unshare", "-U", "--map-user=12345", "true", env=dict(os.environ)).returncode != 0:
        missing("unshare -U (user namespaces)")
    unknown = ("unshare", "-U", "--map-user=12345")
    env = without(
        "HOME", "USER", "LOGNAME", "USERNAME", "DYDIST_CACHE", "XDG_CACHE_HOME", TMPDIR=str(tmp_path)
    )
    trained(tmp_path / "runs", *unknown, env=env)
    assert (tmp_path / "dydist-12345" / "native").is_dir()
    for words in (["status"], ["files"], ["submit", "--help"]):
        done = run(*unknown, sys.executable, "-m", "dydist.cli.main", *words, env=env)
        assert done.returncode in (0, 2), done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_a_user_without_a_home_has_a_folder_of_its_own(tmp_path: Path) -> None:
    code = (
        "import json; from dydist.machine import *; print(json.dumps([str(home_folder()), "
        "str(user_folder('XDG_STATE_HOME', '.local/state'))]))"
    )
    env = without("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_STATE_HOME", TMPDIR=str(tmp_path))
    done = run("unshare", "-U", "--map-user=12345", sys.executable, "-c", code, env=env)
    if done.returncode != 0:
        missing("unshare -U (user namespaces)")
    assert json.loads(done.stdout) == ["None", str(tmp_path / "dydist-12345")]


def test_folders_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert home_folder() == tmp_path
    assert user_folder("XDG_STATE_HOME", ".local/state") == tmp_path / ".local" / "state" / "dydist"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert user_folder("XDG_STATE_HOME", ".local/state") == tmp_path / "state" / "dydist"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert temporary_folder() == tmp_path / f"dydist-{os.getuid()}"


@pytest.mark.parametrize("module", [["-m", "dydist.train", *SMALL], ["-m", "dydist.cli.main", "files"]])
def test_a_working_folder_that_is_gone(module: list[str], tmp_path: Path) -> None:
    """MKL cannot be loaded there, and ends the process by itself."""
    gone = tmp_path / "gone"
    gone.mkdir()
    line = ["bash", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(gone), sys.executable, *module]
    done = run(*line, env=without(PYTHONPATH=str(REPOSITORY)))
    assert done.returncode == 2
    assert (
        done.stderr == b"dydist: the working folder is gone; change to one that is there, and start again\n"
    )


@pytest.mark.parametrize("words", ["", *sorted(commands())])
def test_help_of_every_command(words: str) -> None:
    """No columns, ASCII alone, and a reader that leaves after one line: every line is there, and no traceback."""
    env = without("LC_ALL", "LANG") | POSIX | {"COLUMNS": "0"}
    command = [sys.executable, "-m", "dydist.cli.main", *words.split(), "--help"]
    done = run(*command, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: dydist" in done.stdout
    if words:
        return  # the reader that leaves is the same for all
    line = ["bash", "-c", '"$@" | head -1; exit "${PIPESTATUS[0]}"', "bash", *command]
    cut = run(*line, env=env)
    assert (cut.returncode, cut.stderr) == (0, b"")
    assert cut.stdout.count(b"\n") == 1


def test_the_help_of_training_without_columns_and_with_a_reader_that_leaves() -> None:
    program = [sys.executable, "dydist/train.py", "--help"]
    assert len(run(*program, env=without(COLUMNS="0")).stdout.splitlines()) > 100
    cut = run("bash", "-c", '"$@" | head -1; exit "${PIPESTATUS[0]}"', "bash", *program, env=dict(os.environ))
    assert (cut.returncode, cut.stderr) == (0, b"")


def text_files_without_an_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines that read or write text in the locale's encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text"):
            wrong = "encoding" not in given
        elif name in ("run", "Popen", "check_output"):
            wrong = "text" in given or "universal_newlines" in given
        else:
            wrong = False
        if wrong:
            yield node.lineno


def test_no_text_is_read_or_written_in_the_locales_encoding() -> None:
    """What `ruff check --select PLW1514` finds, and what it cannot know to be a path or a process."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in sorted((REPOSITORY / "dydist").rglob("*.py"))
        for line in text_files_without_an_encoding(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
