"""docs/studies/dynamic.py: grids grow until their optimum is inside; tables; a killed study goes on."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.support import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "studies" / "dynamic.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({0.2: 0.5, 0.4: 0.6, 0.8: 0.4}, []),
        ({0.2: 0.5, 0.4: 0.6, 0.8: 0.7}, [1.6]),
        ({0.2: 0.5, 0.4: 0.4, 0.8: 0.0}, [0.1]),
        ({0.2 * 2**n: n / 10 for n in range(9)}, []),
    ],
)
def test_a_grid_grows_until_its_optimum_is_inside(
    script: dict[str, Any], accuracies: dict[float, float], expected: list[float]
) -> None:
    assert script["next_rates"](accuracies) == expected


def test_the_tables_say_n_and_the_interval(script: dict[str, Any]) -> None:
    facts = {"lr": 0.4, "parameters": 1_000_000, "multiply_adds": 2_000_000, "validation": 0.5}
    lines = [
        {"run": "grid/a", "network": "static", **facts},
        {"run": "grid/b", "network": "static", "lr": 0.8, "state": "diverged"},
        *({"run": "final/a", "network": "static", "test": 0.5 + n / 100, **facts} for n in range(3)),
        *({"run": "final/b", "network": "softmax", "test": 0.6 + n / 100, **facts} for n in range(3)),
    ]
    text = list(script["tables"](lines))
    assert "| static | 50.0 (n = 1) | 0.0 (n = 1) |" in text
    assert "| static | 0.4 | 3 | 51.00 ± 1.00 | – | 1.00 M | 2.0 M |" in text
    assert any(
        line.startswith("| softmax | 0.4 | 3 | 61.00 ± 1.00 | +10.00 (+7.73 to +12.27) |") for line in text
    )


@pytest.mark.long
def test_a_killed_study_goes_on_and_its_run_ends_with_it(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "work"), "--size", "smoke"]
    folder = tmp_path / "work" / "smoke"
    done: list[str] = []
    for runs in (1, 2):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        try:
            while len(done) < runs:
                assert process.poll() is None
                time.sleep(0.2)
                if (folder / "results.json").exists():
                    done = [one["run"] for one in json.loads((folder / "results.json").read_text())]
            other = subprocess.run(command, capture_output=True, text=True)
            assert other.returncode == 2
            assert "another process makes the study" in other.stderr
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert done == ["grid/static_lr0.2_seed0", "grid/softmax--K---4_lr0.2_seed0"]
    starts = [json.loads(x)["kind"] for x in (folder / done[0] / "events.jsonl").read_text().splitlines()]
    assert starts.count("start") == 1
