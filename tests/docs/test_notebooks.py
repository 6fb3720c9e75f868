"""The notebooks of docs/ run: their code cells, one after another, in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from helpers.support import REPOSITORY, Run

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def run_cells() -> None:
    """In a process of its own: the code cells of the notebook NOTEBOOK in the folder WHERE."""
    os.chdir(os.environ["WHERE"])
    names: dict[str, object] = {}
    for number, cell in enumerate(
        json.loads(Path(os.environ["NOTEBOOK"]).read_text(encoding="utf-8"))["cells"]
    ):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    print("accuracies", names["accuracies"], flush=True)
    raise SystemExit(0)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run(notebook: Path, tmp_path: Path) -> None:
    run = Run([], 1, tmp_path / "log", run_cells, NOTEBOOK=str(notebook), WHERE=str(tmp_path))
    assert run.wait() == [0], run.text()
    assert "accuracies {'static'" in run.text()
    assert (tmp_path / "runs" / "digits-dynamic" / "config.yaml").exists()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_there_is_one() -> None:
    assert [path.name for path in NOTEBOOKS] == ["digits.ipynb"]
