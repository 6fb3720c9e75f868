from __future__ import annotations

import json
from pathlib import Path

import pytest

from dydist.cli.main import run_command
from dydist.jobs.submission.logs import follow_log, read_log


def write(folder: Path, start: int, node: int, *lines: str) -> None:
    file = folder / f"attempt-{start:03d}" / f"node-{node}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.writelines(lines)


def test_nodes_are_merged_by_time_and_starts_follow_each_other(tmp_path: Path) -> None:
    write(tmp_path, 0, 0, "2026-01-01T00:00:01.000 [rank 0] a\n", "2026-01-01T00:00:03.000 [node 0] c\n")
    write(tmp_path, 0, 1, "2026-01-01T00:00:02.000 [rank 1] b [x]\n")
    write(tmp_path, 1, 0, "2026-01-01T00:00:09.000 [rank 0] d\n")
    assert [line.text for line in read_log(tmp_path)] == ["a", "b [x]", "c", "d"]
    assert [line.text for line in read_log(tmp_path, rank=0)] == ["a", "d"]
    assert [line.text for line in read_log(tmp_path, start=1)] == ["d"]
    assert str(next(read_log(tmp_path))) == "2026-01-01T00:00:01.000 [rank 0] a"


def test_following_shows_what_was_written_before_the_end_and_no_torn_line(tmp_path: Path) -> None:
    write(tmp_path, 0, 0, "2026-01-01T00:00:01.000 [rank 0] a\n", "2026-01-01T00:00:02.000 [rank 0] tor")
    asked = 0

    def ended() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            write(tmp_path, 0, 0, "n\n")
            write(tmp_path, 1, 0, "2026-01-01T00:00:03.000 [rank 0] last\n")
        return asked == 2

    assert [line.text for line in follow_log(tmp_path, rank=None, ended=ended)] == ["a", "torn", "last"]


def test_nothing_yet(tmp_path: Path) -> None:
    assert list(read_log(tmp_path)) == []
    assert list(follow_log(tmp_path, rank=None, ended=lambda: True)) == []


@pytest.mark.parametrize("more", [[], ["--follow"]])
def test_one_rank_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    """Also where it has printed nothing: what other ranks or SLURM printed is not shown in its place."""
    logs = tmp_path / "logs" / "1"
    write(logs, 0, 0, "2026-01-01T00:00:01.000 [rank 0] a\n", "2026-01-01T00:00:02.000 [node 0] c\n")
    write(logs, 0, 1, "2026-01-01T00:00:02.000 [rank 1] b\n", "2026-01-01T00:00:03.000 [rank 10] d\n")
    tasks = tmp_path / "logs" / "tasks"
    tasks.mkdir()
    (tasks / "1_0_log.out").write_text("what submitit wrote\n")
    record = {
        "job": str(2**31 - 1), "cluster": "local", "name": "r", "run_dir": str(tmp_path), "log_dir": str(logs),
        "task_logs": str(tasks), "submission": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(record))
    run_command(["logs", str(tmp_path), "--rank", "1", *more])
    assert capsys.readouterr().out == "2026-01-01T00:00:02.000 [rank 1] b\n"
    run_command(["logs", str(tmp_path), "--rank", "7", *more])
    shown = capsys.readouterr().out
    assert shown == ("" if more else f"rank 7 of job {record['job']} has printed nothing yet\n")
