"""The guide's factory, as it stands on the page, trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.pages import read
from helpers.support import metrics, train


def test_the_factory_of_the_guide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(# my_network.py\n.*?)```", read("docs/your-network.md"), re.DOTALL)
    (tmp_path / "my_network.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    flags = (
        "--data.name synthetic --data.limit 64 --train.batch_size 32 --train.epochs 1 --monitor.every_steps 1"
    )
    given = ["--model.factory", "my_network:make", "--model.options", "{width: 8}", "--run.dir", tmp_path]
    train([*flags.split(), *given], 1, tmp_path / "log")
    assert metrics(tmp_path / "run")[-1]["step"] == 2
