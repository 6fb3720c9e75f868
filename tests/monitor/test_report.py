from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from dydist.cli.report import report
from dydist.config import Config, OptimConfig, RunConfig
from dydist.config.reader import to_dict
from dydist.errors import UserError
from dydist.monitor import JsonLines, StatusFile
from dydist.monitor.report import charts, group_runs, page, read_run
from dydist.monitor.report.charts import mean_and_band, thin
from dydist.monitor.report.svg import Axis, number
from dydist.monitor.report.timeline import session_spans
from dydist.records import ConfusionRecord, LayerAttention
from helpers.monitor_records import Clock, checkpoint_record, evaluation_record, step_record, summary

IDENTITY = {
    "host": "n1", "world_size": 2, "job": "77", "versions": {"torch": "2.13.0"},
    "hardware": {"cpu": "EPYC", "cores": 2, "memory_bytes": 1 << 34, "gpus": [], "system": "Linux 6"},
}  # fmt: skip


def make_run(folder: Path, *, seed: int = 0, lr: float = 0.1, resumed: bool = True) -> Path:
    """A run folder as the monitors write it: 40 steps, with a kill after 20 and a resume from 15."""
    folder.mkdir()
    config = Config(run=RunConfig(name=folder.name), seed=seed, optim=OptimConfig(lr=lr))
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    clock = Clock(1_700_000_000.0)
    status = StatusFile(folder / "status.json", world_size=2, now=clock, heartbeat_s=3600)
    for start, end in ((0, 20), (15, 40)) if resumed else ((0, 40),):
        lines = JsonLines(folder, now=clock, identity=IDENTITY)
        for monitor in (lines, status):
            monitor.start(step=start, total_steps=40, steps_per_epoch=10)
        for step in range(start + 1, end + 1):
            clock.now += 1.0
            layer = LayerAttention(
                entropy=1 / step, share=(0.75, 0.25), spread=(0.1, 0.1), dead=int(step > 30), similarity=0.1
            )
            extra = {"attention/entropy": 1 / step, "optim/update_ratio": 1e-3 / step}
            lines.step(
                step_record(step, loss=2.0 / step + seed, attention={"layer1.<b>": layer}, extra=extra)
            )
            if step % 10 == 0:
                lines.evaluation(evaluation_record(step, accuracy=0.5 + step / 100 + seed / 100))
                lines.checkpoint(checkpoint_record(step))
        clock.now += 100.0
    lines.note("<script>alert(1)</script>", level="warning")
    lines.checkpoint(checkpoint_record(40, "refused"))
    lines.detail(ConfusionRecord(step=40, classes=("cat", "dog"), counts=((3, 1), (0, 2)), top5=1.0))
    for monitor in (lines, status):
        monitor.close(summary(step=40))
    return folder


class Parsed(HTMLParser):
    """What the page asks for, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        if tag not in (
            "meta",
            "link",
            "img",
            "line",
            "rect",
            "polyline",
            "polygon",
            "circle",
            "br",
            "!doctype",
        ):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "polyline", "polygon", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if not self.open or self.open[-1] not in ("style", "script") else ""


def test_the_page_of_one_run_tells_it_all_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = page([read_run(make_run(tmp_path / "run"))])
    parsed = Parsed(html)
    assert parsed.open == []
    assert all(address.startswith("data:") for address in parsed.addresses)
    assert "@import" not in html
    assert "url(" not in html
    text = parsed.text
    for words in (
        "90.00%last test accuracy", "1resumes", "Accuracy", "Attention entropy", "layer1.<b>", "1 dead",
        "optim.lr0.1", "torch 2.13.0", "EPYC, 2 cores, 16.0 GiB, no GPU", "step 15 on n1, 2 processes, job 77",
        "2 starts, 5 saves", "step 40: refused", "Top-5 accuracy 100.00%",
    ):  # fmt: skip
        assert words in text, words
    assert "<script>alert(1)</script>" in text  # shown as text, not run
    assert html.count("<script>") == 1


def test_a_killed_run_is_not_alive_between_its_lives(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert session_spans(run) == [(1_700_000_000.0, 1_700_000_020.0), (1_700_000_120.0, 1_700_000_245.0)]
    assert run.seconds == pytest.approx(145.0)
    assert [line["step"] for line in run.steps] == list(range(1, 41))


def test_seeds_become_a_mean_with_a_band_and_other_values_a_group(tmp_path: Path) -> None:
    seeds = [read_run(make_run(tmp_path / f"seed-{seed}", seed=seed)) for seed in (0, 1, 2)]
    other = read_run(make_run(tmp_path / "faster", lr=0.2))
    groups = group_runs([*seeds, other])
    assert [(group.label, len(group.runs)) for group in groups] == [("optim.lr=0.1", 3), ("optim.lr=0.2", 1)]
    loss = next(chart for chart in charts(groups) if chart.key == "loss")
    bold = next(curve for curve in loss.curves if curve.band)
    assert bold.name == "optim.lr=0.1 train, mean ± s.d. of 3 runs"
    assert bold.points[0] == (1, 3.0)  # losses 2, 3, 4
    assert bold.band[0] == (1, 2.0, 4.0)  # sample standard deviation 1
    text = Parsed(page([*seeds, other])).text
    assert "91.00 ± 1.00 % (n=3)" in text
    assert "optim.lr0.10.10.10.2" in text


def test_mean_and_band_take_common_steps_alone() -> None:
    mean, band = mean_and_band([[(1, 1.0), (2, 2.0)], [(2, 4.0), (3, 9.0)]])
    assert mean == [(2, 3.0)]
    assert band == [(2, pytest.approx(3 - math.sqrt(2)), pytest.approx(3 + math.sqrt(2)))]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = thin([(step, float(step)) for step in range(10_000)])
    assert len(points) <= 501
    assert points[-1] == (9999, 9999.0)
    assert points[0] == (9.5, 9.5)


def test_axes_have_round_ticks() -> None:
    assert Axis(0.0, 0.97, 0, 100).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert Axis(3e-6, 2e-3, 0, 100, log=True).ticks() == [1e-05, 1e-04, 1e-03]
    assert Axis(5.0, 5.0, 0, 100)(5.0) == 50
    assert [number(value) for value in (0, 1e-5, 1234.0, 0.25)] == ["0", "1e-5", "1,234", "0.25"]
    assert number(0.5, percent=True) == "50%"


def test_the_command_writes_html_and_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    assert report((folder,), json=True) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["html"] == str(folder / "report.html")
    assert {"accuracy.png", "loss.png"} <= {Path(path).name for path in written["png"]}
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in written["png"])
    assert report((folder,), output=tmp_path / "other.html", png=False) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'other.html'}\n"


def test_without_matplotlib_the_page_is_still_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = make_run(tmp_path / "run")
    assert report((folder,)) == 0
    assert "pip install 'dydist[report]'" in capsys.readouterr().err
    assert (folder / "report.html").exists()


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        report((tmp_path,))
    with pytest.raises(UserError, match="no run was given"):
        report(())
    folder = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="cannot write"):
        report((folder,), output=folder / "config.yaml" / "report.html")


def test_a_run_that_just_began_has_a_page(tmp_path: Path) -> None:
    """Nothing but an empty metrics.jsonl: no curve, no accuracy, no error."""
    (tmp_path / "metrics.jsonl").touch()
    assert "No events were logged" in Parsed(page([read_run(tmp_path)])).text


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- 1", '{"a": 1, "a": 2}', "\0"], ids=["nested", "list", "twice", "NUL"]
)
def test_files_that_cannot_be_read_are_passed_over(tmp_path: Path, text: str) -> None:
    folder = make_run(tmp_path / "run")
    for name in ("config.yaml", "status.json"):
        (folder / name).write_text(text)
    assert "90.0" in Parsed(page([read_run(folder)])).text


def test_many_classes_are_told_in_words(tmp_path: Path) -> None:
    classes = tuple(f"class-{number}" for number in range(30))
    counts = tuple(tuple(10 if r == c else int(r == 7) for c in range(30)) for r in range(30))
    folder = make_run(tmp_path / "run")
    JsonLines(folder).detail(ConfusionRecord(step=40, classes=classes, counts=counts, top5=0.95))
    assert "the lowest accuracy: class-7 26%, class-0 100%" in Parsed(page([read_run(folder)])).text
