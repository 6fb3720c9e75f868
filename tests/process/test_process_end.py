"""One way out of every process: exit codes, standard streams that fail, what is done on the way, no abort."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dydist.process.report import ProcessReport
from helpers.process_pairs import Pairs
from helpers.support import REPOSITORY


def python(code: str, *, redirect: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `code` in bash, with its standard streams redirected."""
    line = f'{before}{sys.executable} -c "$CODE" {redirect}; echo "${{PIPESTATUS[0]}}" >&3'
    reader, writer = os.pipe()
    with open(reader) as told:
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&{writer}; {line}"],
            env=os.environ | {"CODE": code}, cwd=REPOSITORY, pass_fds=[writer], capture_output=True, text=True,
        )  # fmt: skip
        os.close(writer)
        done.returncode = int(told.read())
    return done


def ending(function: str, *, ignore_stream_errors: bool = False) -> str:
    """A program that ends through `run_to_end`."""
    options = f"ignore_stream_errors={ignore_stream_errors}"
    return f"from dydist.process.end import run_to_end\n{function}\nrun_to_end(function, {options})"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return None", 0, ""),
        ("return 75", 75, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ValueError('x')", 1, "ValueError: x\n"),
        ("import atexit; atexit.register(print, 'registered')", 0, ""),
    ],
)
def test_the_code_is_the_one_that_python_would_give(body: str, code: int, said: str) -> None:
    done = python(ending(f"def function():\n    {body}"))
    assert done.returncode == code
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)
    assert done.stdout == ("registered\n" if "registered" in body else "")


def test_threads_are_waited_for_and_temporary_folders_removed(tmp_path: Path) -> None:
    body = f"""
import tempfile, threading, time
kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
def write():
    time.sleep(0.2)
    print('written')
def function():
    threading.Thread(target=write).start()
"""
    assert python(ending(body)).stdout == "written\n"
    assert list(tmp_path.iterdir()) == []


MANY = (
    "def function():\n    for _ in range(100000): print('line')\n    import sys; sys.stderr.write('end\\n')"
)


@pytest.mark.parametrize("ignore_stream_errors", [False, True])
def test_a_reader_that_leaves_is_no_error(ignore_stream_errors: bool) -> None:
    done = python(ending(MANY, ignore_stream_errors=ignore_stream_errors), redirect="| head -1")
    assert (done.returncode, done.stdout) == (0, "line\n")
    assert done.stderr == ("end\n" if ignore_stream_errors else "")


def test_another_broken_pipe_is_an_error() -> None:
    done = python(ending("def function(): raise BrokenPipeError('elsewhere')"))
    assert done.returncode == 1
    assert "elsewhere" in done.stderr


def test_a_full_disk_behind_standard_output_is_an_error_unless_the_work_goes_on() -> None:
    assert python(ending(MANY), redirect="> /dev/full").returncode == 1
    assert python(ending(MANY, ignore_stream_errors=True), redirect="> /dev/full 2>&1").returncode == 0


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_not_give_its_number_to_a_file(redirect: str, tmp_path: Path) -> None:
    body = f"""
import os, sys
def function():
    with open({str(tmp_path / "file")!r}, 'wb', buffering=0) as file:
        print('to the terminal'); print('to the terminal', file=sys.stderr)
        os.write(1, b'from C'); os.write(2, b'from C')
        file.write(b'mine')
"""
    assert python(ending(body), redirect=redirect).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "euc-jp", "iso-8859-1", "ascii:strict", "utf-8"])
@pytest.mark.parametrize("ignore_stream_errors", [False, True])
def test_every_character_is_shown_in_some_way(encoding: str, ignore_stream_errors: bool) -> None:
    body = "def function():\n    print('a ä × – … 2⁻³ 汉 ▇ \\udc80 z')"
    done = python(
        ending(body, ignore_stream_errors=ignore_stream_errors),
        before=f"PYTHONIOENCODING={encoding} ",
        redirect="| cat -v",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a ")
    assert done.stdout.endswith(" z\n")


def test_a_process_group_that_is_open_is_left_and_never_freed() -> None:
    body = """
def function():
    import torch.distributed as dist
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    import atexit
    import gc, weakref
    group = weakref.ref(dist.group.WORLD)
    atexit.register(lambda: print(dist.is_initialized(), gc.collect() >= 0 and group() is not None))
"""
    assert python(ending(body)).stdout == "False True\n"


def test_a_report_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.write_text("a file in the way")
    report = ProcessReport(place, 0)
    report.start()
    report.heartbeat(1)
    assert capsys.readouterr().err.count("DYDIST_EXIT_DIR: cannot write") == 1
    place.unlink()
    report.finish(0)
    assert (place / "rank-0.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(int(os.environ.get("DYDIST_TEST_PAIRS", "75")) // 25))
def test_two_processes_start_and_end_without_an_abort(seed: int, tmp_path: Path) -> None:
    """25 pairs each: a thread left behind has ended one in some hundred."""
    pairs = Pairs(tmp_path, seed)
    wrong = [end for case in pairs.cases() if (end := pairs.run(*case)).wrong]
    print(f"\nseed {seed}: {pairs.tally}", flush=True)
    assert not wrong
