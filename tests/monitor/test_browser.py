"""The report and TensorBoard in a real browser."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dydist.cli.report import report
from dydist.monitor import JsonLines
from dydist.monitor.outputs.tensorboard import TensorBoard
from dydist.records import LayerAttention
from helpers.monitor_records import checkpoint_record, evaluation_record, step_record, summary

SCRIPT = Path(__file__).parents[2] / "docs" / "screenshots.py"


@pytest.fixture(scope="module")
def screenshots() -> ModuleType:
    """docs/screenshots.py, with a browser to use."""
    spec = importlib.util.spec_from_file_location("screenshots", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if module.find_chromium() is None:
        what = "Chromium is missing (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(f"{what}, and CI must have it")
        pytest.skip(what)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    monitors = [JsonLines(folder), TensorBoard(folder / "tensorboard", run_dir=folder)]
    layer = LayerAttention(entropy=0.5, share=(0.75, 0.25), spread=(0.1, 0.2), dead=0, similarity=0.1)
    for monitor in monitors:
        monitor.start(step=0, total_steps=50, steps_per_epoch=10)
        for step in range(1, 51):
            monitor.step(step_record(step, attention={"layer1.0.conv1": layer}))
            if step % 10 == 0:
                monitor.evaluation(evaluation_record(step))
                monitor.checkpoint(checkpoint_record(step))
        monitor.close(summary(step=50))
    return folder


def pixels(picture: Path) -> np.ndarray:
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [1280, 420])
def test_the_report_opens_without_errors_or_requests(
    screenshots: ModuleType, run: Path, tmp_path: Path, width: int
) -> None:
    report((run,), output=tmp_path / "report.html", png=False)
    address = (tmp_path / "report.html").as_uri()
    seen = {
        dark: screenshots.visit(address, tmp_path / f"{dark}.png", width=width, dark=dark)
        for dark in (False, True)
    }
    for visit in seen.values():
        assert visit.errors == []
        assert visit.requests == []
    light, dark = pixels(tmp_path / "False.png"), pixels(tmp_path / "True.png")
    assert light.shape == (900, width, 3)
    assert light[0, 0].sum() > 700 > 150 > dark[0, 0].sum()
    curves = (abs(light - np.array([0x0B, 0x62, 0xC4])).max(axis=2) < 60).sum()
    assert curves > 100  # pixels of the first curve's colour: something was drawn


def test_a_broken_page_would_be_noticed(screenshots: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text('<script>missing()</script><img src="http://192.0.2.1/picture.png">')
    seen = screenshots.visit(page.as_uri(), tmp_path / "broken.png", wait_ms=500)
    assert any("missing is not defined" in line for line in seen.errors)
    assert seen.outside == ["http://192.0.2.1/picture.png"]


@pytest.mark.long
def test_tensorboard_opens_on_a_finished_run(screenshots: ModuleType, run: Path, tmp_path: Path) -> None:
    with screenshots.tensorboard({"finished": run}) as address:
        seen = screenshots.visit(f"{address}/#custom_scalars", tmp_path / "board.png", wait_ms=15000)
    assert seen.errors == []
    assert seen.outside == []
    assert any("custom_scalars/layout" in url for url in seen.requests)
    orange = (abs(pixels(tmp_path / "board.png") - np.array([0xF5, 0x7C, 0x00])).max(axis=2) < 8).sum()
    assert orange > 10_000
