"""What another user of the machine planted under a name that can be guessed is neither loaded nor run."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dydist.checkpoint._stage import NAMES, check_stage, open_stage, prepare_stage
from dydist.data.cifar import LAYOUTS
from dydist.data.prepare_cifar import open_cifar
from dydist.jobs.node.scratch import PREFIX, Scratch, sweep
from dydist.models.measured import TimingCache
from dydist.models.strategies.native import build
from dydist.private_files import NotPrivateError, check_private, is_own_file, own_folder, private_folder
from dydist.train import main
from helpers.planted import TINY
from helpers.support import missing

NEIGHBOUR = 12345


@pytest.fixture
def neighbour() -> Callable[[Path], Path]:
    """Gives a file or a folder, with all below it, to another user. Only root can."""
    if os.geteuid() != 0:
        missing("root's right to give files to another user")

    def give(path: Path) -> Path:
        for one in [path, *path.rglob("*")]:
            os.chown(one, NEIGHBOUR, NEIGHBOUR, follow_symlinks=False)
        return path

    return give


def as_folder(path: Path) -> None:
    path.mkdir()


def as_link(path: Path) -> None:
    path.with_name("elsewhere").mkdir(exist_ok=True)
    path.symlink_to(path.with_name("elsewhere"))


def as_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def as_file(path: Path) -> None:
    path.write_text("")


def as_open_folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def as_neighbours_folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)
    os.chown(path, NEIGHBOUR, NEIGHBOUR)


PLANTED = [as_link, as_dangling_link, as_file, as_open_folder, as_neighbours_folder]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_private_folder_is_nobody_elses(plant: Callable[[Path], None], tmp_path: Path) -> None:
    if plant is as_neighbours_folder and os.geteuid() != 0:
        missing("root's right to give files to another user")
    plant(tmp_path / "mine")
    with pytest.raises((NotPrivateError, FileExistsError)):
        private_folder(tmp_path / "mine")
    with pytest.raises(NotPrivateError, match="mine"):
        check_private(tmp_path / "mine")


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_this_user_made_is_this_users(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert stat.S_IMODE(private_folder(tmp_path / "mine").stat().st_mode) & 0o077 == 0
        private_folder(tmp_path / "mine")
        folder = own_folder(tmp_path / "cache", "a/b")
        (folder / "file").write_text("")
        (folder / "file").chmod(0o644)
        assert is_own_file(folder / "file")
        assert own_folder(tmp_path / "cache", "a/b") == folder
    finally:
        os.umask(before)


def test_a_cache_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "cache" / "a").mkdir(parents=True)
    for folder in (tmp_path / "cache", tmp_path / "cache" / "a"):
        folder.chmod(0o777)
    own_folder(tmp_path / "cache", "a")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o755
    (tmp_path / "cache" / "a" / "file").write_text("")
    (tmp_path / "cache" / "a" / "file").chmod(0o666)
    assert not is_own_file(tmp_path / "cache" / "a" / "file")


@pytest.mark.parametrize("which", ["cache", "cache/native"])
def test_a_neighbours_cache_is_refused(which: str, tmp_path: Path, neighbour: Callable[[Path], Path]) -> None:
    (tmp_path / "cache" / "native").mkdir(parents=True)
    neighbour(tmp_path / which)
    with pytest.raises(NotPrivateError, match="belongs to"):
        own_folder(tmp_path / "cache", "native/key")


def test_kernels_that_another_put_there_are_built_anew(
    tmp_path: Path, neighbour: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = build._compiler()
    if compiler is None:
        missing("a C++ compiler")
    assert compiler is not None

    def compile_quickly(compiler: str, target: Path) -> None:
        target.write_bytes(b"built")

    monkeypatch.setattr(build, "_compile", compile_quickly)  # takes long; what is built matters not here
    target = build.build(compiler, tmp_path / "cache")
    target.write_bytes(b"planted")
    assert build.build(compiler, tmp_path / "cache").read_bytes() == b"planted"  # ours: taken as it is
    neighbour(target)
    assert build.build(compiler, tmp_path / "cache").read_bytes() == b"built"
    target.unlink()
    target.symlink_to(tmp_path / "planted.so")
    (tmp_path / "planted.so").write_bytes(b"planted")
    assert build.build(compiler, tmp_path / "cache").read_bytes() == b"built"
    neighbour(target.parent)
    with pytest.raises(NotPrivateError):
        build.build(compiler, tmp_path / "cache")


def test_measured_choices_of_another_are_not_believed(
    tmp_path: Path, neighbour: Callable[[Path], Path]
) -> None:
    path = tmp_path / "cache" / "strategies.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"a": {"mix": 1.0}}))
    times = TimingCache(path, lambda: 0.0)
    assert times._read() == {"a": {"mix": 1.0}}
    neighbour(path)
    assert times._read() == {}
    neighbour(path.parent)
    times._known = {"b": {"mix": 2.0}}
    times._write()
    assert json.loads(path.read_text()) == {"a": {"mix": 1.0}}


def test_converted_images_of_another_are_not_believed(
    cifar10_exact_root: Path,
    tmp_path: Path,
    neighbour: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    root = tmp_path / "data"
    shutil.copytree(cifar10_exact_root, root)
    shutil.rmtree(root / ".dydist-cache", ignore_errors=True)

    def opened() -> Path:
        return open_cifar(
            LAYOUTS["cifar10"], root, allow_download=False, cache_dir=None, progress=lambda text: None
        ).folder

    first = opened()
    assert first.is_relative_to(root)
    assert opened() == first
    neighbour(first)
    assert opened().is_relative_to(tmp_path / "cache-home")
    shutil.rmtree(tmp_path / "cache-home")
    shutil.rmtree(first)
    neighbour(root / ".dydist-cache")
    assert opened().is_relative_to(tmp_path / "cache-home")
    shutil.rmtree(tmp_path / "cache-home")
    neighbour(root)  # the data are the neighbour's own: so is the conversion
    assert opened().is_relative_to(root)


def test_scratch_of_another_is_left_alone(tmp_path: Path, neighbour: Callable[[Path], Path]) -> None:
    with Scratch(tmp_path) as mine:
        planted = tmp_path / f"{PREFIX}planted"
        shutil.copytree(mine, planted)
        neighbour(planted)
        assert sweep(tmp_path) == []
        assert planted.exists()


def tiny(runs: Path, name: str, *more: object) -> list[str]:
    values = {**TINY, "run.dir": runs, "run.name": name, "monitor.quiet": "true"}
    return [str(word) for field, value in values.items() for word in (f"--{field}", value)] + list(
        map(str, more)
    )


def steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("given", ["the default", pytest.param("stage_dir", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "plant",
    [
        "a link",
        *(pytest.param(how, marks=pytest.mark.long) for how in ("the folder", "within an open folder")),
    ],
)
def test_a_planted_stage_is_not_gone_on_from(
    given: str,
    plant: str,
    tmp_path: Path,
    neighbour: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    staged = tmp_path / "first-stage"
    here = ["--checkpoint.stage_dir", staged]
    assert main(tiny(tmp_path, "first", "--checkpoint.url", f"memory://{tmp_path.name}/first", *here)) == 0
    url = f"memory://{tmp_path.name}/victim"
    stage = open_stage(url, None if given == "the default" else str(tmp_path / "chosen"))
    target = stage.root
    if plant == "a link":
        target.parent.mkdir()
        shutil.copytree(next(staged.iterdir()), tmp_path / "planted")
        target.symlink_to(tmp_path / "planted")
        neighbour(tmp_path / "planted")
        os.chown(target, NEIGHBOUR, NEIGHBOUR, follow_symlinks=False)
    else:
        shutil.copytree(next(staged.iterdir()), target)
        target.chmod(0o777)
        target.parent.chmod(0o777)
        if plant == "the folder":
            neighbour(target)
    if given == "the default":
        neighbour(target.parent)
        chosen = []
    else:
        chosen = ["--checkpoint.stage_dir", tmp_path / "chosen"]
    code = main(tiny(tmp_path, "victim", "--checkpoint.url", url, *chosen))
    if given == "the default":  # another name is taken
        assert code == 0
        assert steps(tmp_path / "victim")[0] == 1
        assert (tmp_path / f"{target.parent.name}-1").stat().st_mode & 0o777 == 0o700
    else:
        assert code == 2
        assert "checkpoint.stage_dir: " in capsys.readouterr().err
        assert not (tmp_path / "victim" / "metrics.jsonl").exists()


def test_a_stage_of_this_users_own_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same place, with what was staged and not uploaded."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage = open_stage("memory://a/b", None)
    assert check_stage(stage) is None
    prepare_stage(stage, "memory://a/b", now=0)
    assert check_stage(stage) is None
    assert open_stage("memory://a/b", None).root == stage.root
    stage.root.parent.chmod(0o777)
    other = open_stage("memory://a/b", None)
    assert other.root.parent.name == f"{stage.root.parent.name}-1"
    assert NAMES > 2


def test_where_all_names_are_taken_it_is_told(
    tmp_path: Path,
    neighbour: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = open_stage("memory://a/b", None).root.parent
    for number in range(NAMES):
        name = first.name if number == 0 else f"{first.name}-{number}"
        (tmp_path / name).mkdir()
        neighbour(tmp_path / name)
    assert main(tiny(tmp_path, "run", "--checkpoint.url", f"memory://{tmp_path.name}/x")) == 2
    assert "checkpoint.stage_dir: " in capsys.readouterr().err
