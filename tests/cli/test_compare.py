"""`dydist compare` on real runs: equal ones, different ones, and a table over seeds."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from scipy import stats

from dydist.cli.main import main
from dydist.compare.many import group_by_setting, read_result
from dydist.models import dy_resnet18
from dydist.models.cost import network_cost
from helpers.support import REPOSITORY, metrics, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings with two seeds each, and a copy of the first run: eight steps of a tiny network on digits."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, lr in (
        ("a", 0, 0.05),
        ("again", 0, 0.05),
        ("b", 1, 0.05),
        ("c", 0, 0.01),
        ("d", 1, 0.01),
    ):
        arguments = [
            *(
                "--config",
                REPOSITORY / "launch/recipes/quickstart.yaml",
                "--run.dir",
                folder,
                "--run.name",
                name,
            ),
            *(
                "--model.width",
                "0.0625",
                "--train.max_steps",
                "8",
                "--monitor.every_steps",
                "1",
                "--seed",
                seed,
            ),
            *("--optim.lr", lr, "--parallel.threads", "1", "--monitor.quiet", "true"),
        ]
        train(arguments, 1, folder.parent / "logs" / name)
    return folder


def test_the_same_run_twice_is_equal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "a"), str(runs / "again")]) == 0
    assert "equal to the bit at step 8" in capsys.readouterr().out
    assert main(["compare", str(runs / "a"), str(runs / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True
    assert main(["compare", str(runs / "a"), str(runs / "again"), "--split", "test"]) == 0
    assert "test %" in capsys.readouterr().out


def test_where_and_by_how_much_two_runs_part(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "a"), str(runs / "b")]) == 1
    out = capsys.readouterr().out
    assert "first difference at           step 1" in out
    assert "data_hash" in out
    assert "weights and momentum          differ at step 8" in out


def test_seeds_are_one_row_with_their_spread(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs), "--json", "--csv", str(tmp_path / "runs.csv")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["evaluated"] == 5
    assert {row["label"]: row["runs"] for row in result["rows"]} == {"optim.lr=0.05": 3, "optim.lr=0.01": 2}
    with (tmp_path / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == ["a", "again", "b", "c", "d"]
    low = [float(line["accuracy"]) for line in lines if line["optim.lr"] == "0.01"]
    row = next(row for row in result["rows"] if row["label"] == "optim.lr=0.01")
    assert row["accuracy"] == pytest.approx(sum(low) / 2)
    assert row["deviation"] == pytest.approx(abs(low[0] - low[1]) / 2**0.5)
    steps = [line for line in metrics(runs / "a") if line["step_s"]]
    mean = sum(line["step_s"] for line in steps) / len(steps)
    assert float(lines[0]["training_s"]) == pytest.approx(8 * mean)
    assert main(["compare", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "optim.lr=0.05" in out
    assert "not finished" not in out


def test_other_shards_are_another_row_and_another_machine_is_not(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch norm takes its statistics over a shard; how many threads computed it decides nothing."""
    written = (runs / "a" / "config.yaml").read_text()
    shards = yaml.safe_load(written)["parallel"]["shards"]
    for name, old, new in (
        ("threads", "  threads: 1", "  threads: 2"),
        ("shards", f"  shards: {shards}", f"  shards: {2 * shards}"),
    ):
        shutil.copytree(runs / "a", tmp_path / name)
        assert written.count(old) == 1
        (tmp_path / name / "config.yaml").write_text(written.replace(old, new))
    assert main(["compare", str(runs / "a"), str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["label"]: row["runs"] for row in rows} == {
        f"parallel.shards={shards}": 2,
        f"parallel.shards={2 * shards}": 1,
    }


def test_a_run_that_is_not_at_its_end_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    status = json.loads((tmp_path / "b" / "status.json").read_text())
    (tmp_path / "b" / "status.json").write_text(json.dumps({**status, "state": "stopped"}))
    assert main(["compare", str(runs / "a"), str(tmp_path / "b"), "--table", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished"] == {"b": 8}
    assert main(["compare", str(runs / "a"), str(tmp_path / "b"), "--table"]) == 0
    assert "not finished: b (step 8)" in capsys.readouterr().out


def test_rows_are_compared_with_a_baseline(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "new" / "lr.png"
    arguments = ["compare", str(runs), "--baseline", "lr=0.05", "--json", "--plot", str(plot)]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"] == "optim.lr=0.05"
    rows = {row["label"]: row for row in found["rows"]}
    high, low = rows["optim.lr=0.05"], rows["optim.lr=0.01"]
    assert high["difference"] is None
    test = stats.ttest_ind(low["accuracies"], high["accuracies"], equal_var=False)
    interval = test.confidence_interval(0.95)
    told = low["difference"]
    assert told["mean"] == pytest.approx(low["accuracy"] - high["accuracy"])
    assert (told["low"], told["high"]) == pytest.approx((interval.low, interval.high))
    network = dy_resnet18(width=0.0625)
    assert high["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert high["multiply_adds"] == network_cost(network, 8).multiply_adds
    assert plot.read_bytes().startswith(b"\x89PNG")
    with Image.open(plot) as picture:
        assert picture.size[0] == 1600
    assert main(["compare", str(runs), "--baseline", "lr="]) == 2
    assert "--baseline: 'lr=' is in 2 of the rows" in capsys.readouterr().err


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "holds no run (no metrics.jsonl); give run folders" in capsys.readouterr().err


def test_accuracy_is_drawn_over_a_field_and_over_epochs(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for x in ("optim.lr", "epoch"):
        plot = tmp_path / f"{x}.png"
        assert main(["compare", str(runs), "--plot", str(plot), "--x", x]) == 0
        with Image.open(plot) as picture:
            assert picture.size == (1600, 1000)
    assert main(["compare", str(runs), "--plot", str(tmp_path / "kind.png"), "--x", "model.kind"]) == 2
    assert "--x: model.kind of a is dynamic, not a number" in capsys.readouterr().err
    assert main(["compare", str(runs), "--x", "epoch"]) == 2
    assert "--x: epoch is the axis of a plot" in capsys.readouterr().err


def test_a_line_has_all_runs_of_a_setting_whatever_is_on_the_axis(runs: Path) -> None:
    results = [result for run in sorted(runs.iterdir()) if (result := read_result(run)) is not None]
    (line,) = group_by_setting(results, without="optim.lr").values()
    assert len(line) == 5
    assert {result.steps_per_epoch for result in results} == {22}
    assert [len(group) for group in group_by_setting(results).values()] == [3, 2]
