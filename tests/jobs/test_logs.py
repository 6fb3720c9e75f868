from __future__ import annotations

from pathlib import Path

from dydist.jobs.logs import follow_log, read_log


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
