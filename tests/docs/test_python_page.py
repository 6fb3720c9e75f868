"""The program of docs/python.md, as it stands there, trains and is loaded."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.pages import blocks
from helpers.support import Run

PROGRAM, LOADING = (
    block.text
    for block in blocks("docs/python.md")
    if block.language == "python" and block.mark.startswith("run in")
)


def run_program() -> None:
    """In a training process: the program, as `python my_train.py` runs it."""
    os.chdir(os.environ["WHERE"])
    sys.argv = ["my_train.py", "--parallel.threads", "1", "--monitor.quiet", "true"]
    runpy.run_path("my_train.py", run_name="__main__")
    raise SystemExit(0)


def test_the_program_of_the_guide_trains_and_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_train.py").write_text(PROGRAM)
    run = Run([], 1, tmp_path / "log", run_program, WHERE=str(tmp_path))
    assert run.wait() == [0], run.text()
    assert "trained runs/stripes" in run.text()
    images = np.arange(8, dtype=np.uint8).repeat(8).reshape(8, 8)[None, :, :, None] * 25
    Image.fromarray(images[0, :, :, 0]).save("picture.png")
    exec(LOADING, {"images": images})
