"""Draws docs/images/drift.svg: how fast runs with reduce=fast part from reduce=exact. Takes about three minutes.

python docs/drift.py            needs the extras demo and report
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
STEPS = 110


def losses(folder: Path, reduce: str, processes: int) -> list[float]:
    """The loss of every step of a run of the quick start."""
    name = f"{reduce}{processes}"
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch", "--quiet", "--num_machines", "1"]
    kind = ["--multi_gpu"] if processes > 1 else []
    flags = [
        "--run.dir",
        str(folder),
        "--run.name",
        name,
        "--parallel.reduce",
        reduce,
        "--monitor.every_steps",
        "1",
    ]
    subprocess.run(
        [
            *(*launcher, *kind, "--num_processes", str(processes), str(HERE.parent / "dydist" / "train.py")),
            *("--config", str(HERE.parent / "launch" / "recipes" / "quickstart.yaml"), *flags),
            *("--train.max_steps", str(STEPS), "--parallel.threads", "1", "--monitor.quiet", "true"),
        ],
        check=True,
    )
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


def main() -> None:
    """Run, draw, and print the figures at a few steps."""
    with tempfile.TemporaryDirectory() as folder:
        exact = losses(Path(folder), "exact", 1)
        runs = {
            "exact, 2 processes": losses(Path(folder), "exact", 2),
            **{f"fast, {n} process{'es' * (n > 1)}": losses(Path(folder), "fast", n) for n in (1, 2, 4)},
        }
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for label, values in runs.items():
        difference = [abs(a - b) for a, b in zip(values, exact, strict=True)]
        axes.plot(range(1, STEPS + 1), [max(d, 1e-8) for d in difference], label=label)
        print(label, {step: f"{difference[step - 1]:.1e}" for step in (1, 5, 10, 20, 50, 100)})
    axes.set(yscale="log", ylim=(0.8e-8, 2), xlabel="step", ylabel="|loss − loss of exact, 1 process|")
    axes.set_title("Drift from rounding alone (quick start; 1e-8 stands for 0)", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(HERE / "images" / "drift.svg")


if __name__ == "__main__":
    main()
