"""The place of checkpoints, looked at before a job starts: what can pass by itself, and what cannot."""

from __future__ import annotations

import socket
from pathlib import Path

from dydist.config import CheckpointConfig
from dydist.jobs.node.checks import Finding
from dydist.jobs.node.place_check import check_place
from dydist.jobs.node.preflight import NodeReport, compare, inspect_node
from dydist.jobs.spec import JobSpec
from helpers.support import free_port


def check(url: str | None, workdir: Path, *, limit_s: float = 30.0) -> list[Finding]:
    return check_place(CheckpointConfig(url=url), workdir, limit_s=limit_s)


def test_a_good_place_has_no_findings_and_keeps_nothing(tmp_path: Path) -> None:
    assert check(None, tmp_path) == []
    assert check("relative", tmp_path) == []
    assert list((tmp_path / "relative").iterdir()) == []
    assert check("memory://preflight", tmp_path) == []


def test_a_place_that_cannot_be_written_would_be_so_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found,) = check("file/checkpoints", tmp_path)
    assert (found.level, found.shared, found.passing) == ("bad", True, False)
    assert f"{tmp_path}/file/checkpoints cannot be written" in found.text
    (found,) = check("nonsense://place", tmp_path)
    assert (found.level, found.passing) == ("bad", False)


def test_every_node_looks_at_the_place_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = JobSpec(
        run_dir=str(tmp_path), log_dir=str(tmp_path), code=str(tmp_path), program="train.py", processes_per_node=1,
        arguments=("--checkpoint.url", "file/place"), workdir=str(tmp_path), cpu=True,
    )  # fmt: skip
    found = inspect_node(spec, "n1", tmp_path / "scratch").findings
    assert [one.text.partition(":")[0] for one in found] == ["checkpoint.url"]


def test_a_store_that_refuses_or_does_not_answer_may_come_back(tmp_path: Path) -> None:
    (refused,) = check(f"sftp://user:secret@127.0.0.1:{free_port()}/place", tmp_path, limit_s=2)
    assert (refused.level, refused.passing) == ("bad", True)
    assert "secret" not in refused.text
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        (hung,) = check(f"sftp://127.0.0.1:{silent.getsockname()[1]}/place", tmp_path, limit_s=1)
        assert hung.passing
        assert "does not answer within 1 s" in hung.text
    reports = [NodeReport(name="n1", findings=(hung,)), NodeReport(name="n2", findings=(refused,))]
    assert compare(reports).passing
    assert compare(reports).everywhere
    alone = compare([reports[0], NodeReport(name="n2")])
    assert (list(alone.bad), alone.everywhere, alone.passing) == (["n1"], [], False)
