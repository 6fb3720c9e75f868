"""Submissions to a disk without room, or that cannot be written: one line, exit 2, and nothing is left there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dydist.cli.main import main
from dydist.jobs.files import create_json, write_json
from helpers.support import REPOSITORY

Disk = Callable[..., Path]
COMMANDS = {
    "submit": "submit --cpu --cluster local -- quickstart --run.dir DISK/runs",
    "submit to SLURM": "submit --cpu -- quickstart --run.dir DISK/runs",
    "sweep": "sweep --cpu --name s --grid optim.lr=0.1,0.2 -- quickstart --run.dir DISK/runs",
    "preflight": "preflight --cpu --folder DISK/runs/preflight",
}
SIZE = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a file system of its own with so much room."""
    place = tmp_path / "disk"
    place.mkdir()
    done = []

    def mount(room: int, *options: str) -> Path:
        words = ["-o", ",".join([f"size={SIZE}", *options]), "tmpfs", str(place)]
        if subprocess.run(["mount", "-t", "tmpfs", *words], capture_output=True).returncode:
            pytest.skip("a file system of a test's own can be mounted by root alone")
        done.append(place)
        if "ro" not in options:
            (place / "ballast").write_bytes(bytes(SIZE - room))
        return place

    yield mount
    for one in done:
        subprocess.run(["umount", str(one)], check=True)


def of_the_code() -> int:
    """Bytes of a disk that a copy of the code takes, in pages of 4 KiB."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    sizes = [(REPOSITORY / name).stat().st_size for name in files.decode().split("\0") if name]
    return sum(-(-size // 4096) * 4096 for size in sizes)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch notes that it was called. Nothing is read or written elsewhere."""
    called, folder = tmp_path / "called", tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {called}\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return called


@pytest.mark.parametrize(
    ("command", "room"),
    [
        pytest.param(
            command, room, marks=pytest.mark.long if number and place else ()
        )  # one row and one column
        for number, command in enumerate(COMMANDS)
        for place, room in enumerate(("none", "half of the code", "the code alone", "read-only"))
    ],
)
def test_a_submission_that_cannot_be_written_leaves_nothing(
    command: str, room: str, disk: Disk, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = {"half of the code": of_the_code() // 2, "the code alone": of_the_code() + 40_960}
    place = disk(rooms.get(room, 0), *(["ro"] if room == "read-only" else []))
    before = sorted(place.rglob("*"))
    assert main(COMMANDS[command].replace("DISK", str(place)).split()) == 2
    out, err = capsys.readouterr()
    field = "--folder" if command == "preflight" else "run.dir"
    reason = "Read-only file system" if room == "read-only" else "No space left on device"
    assert err.startswith(f"dydist: {field}: cannot write {place}/runs")
    assert f" ({reason}); give a folder that can be written" in err
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(place.rglob("*")) == before
    assert not at_home.exists()


def test_what_was_submitted_before_stays(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    place = disk(1 << 20)
    for name in ("runs/quickstart/logs/tasks/old.pkl", "runs/quickstart/submissions/old/code/x.py"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("old")
    before = sorted(place.rglob("*"))
    assert main(COMMANDS["submit"].replace("DISK", str(place)).split()) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("write", [write_json, create_json])
def test_a_file_that_finds_no_room_leaves_no_part_of_it(write: Callable[..., object], disk: Disk) -> None:
    place = disk(4096)
    with pytest.raises(OSError, match="No space left on device"):
        write(place / "x.json", {"text": "x" * 8192})
    assert [path.name for path in place.iterdir()] == ["ballast"]
