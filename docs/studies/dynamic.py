"""The study of docs/studies/dynamic.md, made again: python docs/studies/dynamic.py DATA WORK --size tiny

DATA holds cifar-10-batches-py. Runs go to WORK/SIZE/grid and WORK/SIZE/final, one folder each, and results.json,
tables.md and two plots to WORK/SIZE. Killed at any moment, the same command goes on: runs that are done are left out,
and the one that was cut resumes from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dydist.compare.many import Result, read_result
from dydist.compare.plot import draw_lines
from dydist.compare.statistics import difference
from dydist.errors import EXIT_DONE

REPOSITORY = Path(__file__).resolve().parents[2]
GRID_SEEDS = (0, 1)
FINAL_SEEDS = (100, 101, 102, 103, 104)
START = (0.2, 0.4, 0.8)
"""The learning rates that every network is tried at first."""
MOST_RATES = 9
AUTO = {"optim.kernel_lr": "auto", "optim.kernel_decay": "auto"}
BASELINE = "static"


@dataclass(frozen=True)
class Network:
    """One row of the tables. `fields`: what differs from the size's configuration."""

    name: str
    fields: Mapping[str, object] = field(default_factory=dict, compare=False)


def softmax(kernels: int, **more: object) -> dict[str, object]:
    return {"model.kernels": kernels, **AUTO, **more}


PLAIN = {"optim.kernel_lr": 1.0, "optim.kernel_decay": 1.0}
MAIN = (
    (Network("static", {"model.kind": "static"}), Network("softmax, K = 4", softmax(4))),
    (
        Network("softmax, K = 2", softmax(2)),
        Network("softmax, K = 8", softmax(8)),
        Network("sigmoid, K = 4", {**softmax(4), "model.attention": "sigmoid"}),
    ),
    tuple(
        Network(f"softmax, K = {kernels}, without auto", {**softmax(kernels), **PLAIN})
        for kernels in (4, 2, 8)
    ),
)
"""In this order. What is chosen from a grid of the first two is trained again with fresh seeds."""
OPTIONS = (
    Network("temperature always 1", {**softmax(4), "temperature.start": 1}),
    Network("attention's learning rate × 4", {**softmax(4), "optim.attention_lr": 4}),
    Network("kernels' decay × 1", {**softmax(4), "optim.kernel_decay": 1.0}),
    Network("kernels start equal but for 0.1", {**softmax(4), "model.spread": 0.1}),
    Network("dynamic in the last two stages", {**softmax(4), "model.dynamic": "layer[34].*"}),
    Network(
        "batch norm in the attention, width ≥ 16",
        {**softmax(4), "model.attention_norm": "batch", "model.attention_min_hidden": 16},
    ),
    Network(
        "channel attention too (ODConv)",
        {
            **softmax(4),
            "model.channel_attention": "true",
            "model.reduction": 0.0625,
            "model.attention_norm": "batch",
            "model.attention_min_hidden": 16,
        },
    ),
    Network("weights by Σ|logit| (KernelWarehouse)", {**softmax(4), "model.attention": "l1"}),
)
SIZES: dict[str, dict[str, object]] = {
    "smoke": {
        "data.name": "digits",
        "data.crop_padding": 1,
        "data.validation": 200,
        "model.width": 0.0625,
        "train.epochs": 2,
        "temperature.epochs": 1,
    },
    "tiny": {"model.width": 0.125, "data.limit": 15_000, "data.validation": 5_000, "train.epochs": 10},
    "small": {"data.validation": 5_000, "train.epochs": 20, "temperature.epochs": 10},
}
"""What differs from launch/recipes/cifar10-small.yaml. smoke: seconds a run, to see that the script works."""
WIDER: dict[str, dict[str, float]] = {
    "smoke": {"twice as wide": 0.125},
    "tiny": {"equal step time and parameters": 0.25},
    "small": {"equal step time": 0.3125, "equal parameters": 0.5},
}
"""Widths of static networks that cost as much as softmax with K = 4 (docs/studies/dynamic.md)."""


@dataclass(frozen=True)
class Job:
    """One run: `phase` is grid or final."""

    phase: str
    network: Network
    lr: float
    seed: int

    @property
    def name(self) -> str:
        text = "".join(c if c.isalnum() or c == "." else "-" for c in self.network.name)
        return f"{text}_lr{self.lr:g}_seed{self.seed}"


class Study:
    """The runs of one size. `parallel`: runs at the same time, of one thread each."""

    def __init__(self, data: Path, work: Path, size: str, parallel: int) -> None:
        self.data, self.size, self.parallel = data.resolve(), size, parallel
        self.folder = (work / size).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._commits = {one["run"]: one["commit"] for one in _read(self.folder / "results.json")}
        self._commit = _commit()
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job]) -> None:
        """Run what is not done yet, some at a time."""
        jobs = list(jobs)
        self.jobs += jobs
        running: dict[subprocess.Popen[bytes], Job] = {}
        try:
            for job in [job for job in jobs if not self._ended(job)]:
                while len(running) >= self.parallel:
                    self._reap(running)
                running[self._start(job)] = job
            while running:
                self._reap(running)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        fields = {
            "run.dir": self.folder / job.phase,
            "run.name": job.name,
            "seed": job.seed,
            "data.root": self.data,
            "parallel.reduce": "fast",
            "parallel.threads": 1,
            "monitor.quiet": "true",
            "monitor.every_steps": 39,
            "monitor.histograms_every_steps": 0,
            "optim.lr": job.lr,
            "checkpoint.every_minutes": 3,
            "checkpoint.keep": 1,
            "checkpoint.keep_best": "false",
            **SIZES[self.size],
            **job.network.fields,
        }
        if job.phase == "grid":
            fields["train.eval_every_epochs"] = fields["train.epochs"]
        flags = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        command = [
            sys.executable,
            str(REPOSITORY / "dydist" / "train.py"),
            "--config",
            "cifar10-small",
            *flags,
        ]
        print(f"{time.strftime('%H:%M:%S')} {job.phase}/{job.name}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self._commits[f"{job.phase}/{job.name}"] = self._commit
        return subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent, cwd=REPOSITORY)

    def _reap(self, running: dict[subprocess.Popen[bytes], Job]) -> None:
        """Wait until one of the runs has ended, and write the results."""
        while (ended := next((one for one in running if one.poll() is not None), None)) is None:
            time.sleep(0.2)
        job = running.pop(ended)
        if ended.returncode != EXIT_DONE and not self._ended(job):
            raise SystemExit(
                f"{job.phase}/{job.name} exited with {ended.returncode}; the same command goes on"
            )
        self.write()

    def _ended(self, job: Job) -> bool:
        """Whether a run is done, or has diverged."""
        try:
            status = json.loads((self._run(job) / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        diverged = status["state"] == "failed" and "loss is" in status.get("message", "")
        return status["state"] == "done" or diverged

    def _run(self, job: Job) -> Path:
        return self.folder / job.phase / job.name

    def result(self, job: Job) -> Result | None:
        """The result of a run that is done; None if it is not, or has diverged."""
        if not self._ended(job):
            return None
        found = read_result(self._run(job))
        return found if found is not None and found.finished else None

    def rates(self, network: Network) -> dict[float, float]:
        """Mean validation accuracy by learning rate; a diverged run counts as 0."""
        found: dict[float, list[float]] = {}
        for job in self._of("grid", network):
            if self._ended(job):
                result = self.result(job)
                found.setdefault(job.lr, []).append(last(result, "validation") if result else 0.0)
        return {lr: statistics.fmean(values) for lr, values in sorted(found.items())}

    def _of(self, phase: str, network: Network) -> list[Job]:
        return [
            job for job in dict.fromkeys(self.jobs) if job.phase == phase and job.network.name == network.name
        ]

    def grids(self, networks: Sequence[Network]) -> None:
        """Find each network's best learning rate on the validation split; grids grow until it is inside."""
        wanted = {network: list(START) for network in networks}
        while any(wanted.values()):
            for seed in GRID_SEEDS:
                rates = sorted({lr for rates in wanted.values() for lr in rates})
                self.run(Job("grid", n, lr, seed) for lr in rates for n in networks if lr in wanted[n])
            wanted = {network: next_rates(self.rates(network)) for network in networks}

    def finals(self, networks: Sequence[Network]) -> None:
        """Train each network at its best learning rate with fresh seeds, a seed of all at a time."""
        best = {
            network: max(rates, key=rates.__getitem__)
            for network in networks
            if (rates := self.rates(network))
        }
        for seed in FINAL_SEEDS:
            self.run(Job("final", network, best[network], seed) for network in networks)

    def write(self) -> None:
        """results.json and tables.md, of what is there so far."""
        lines = []
        for job in dict.fromkeys(self.jobs):
            if not self._ended(job):
                continue
            key, result = f"{job.phase}/{job.name}", self.result(job)
            facts = {"run": key, "network": job.network.name, "lr": job.lr, "seed": job.seed}
            lines.append({**facts, "commit": self._commits.get(key), **outcome(result)})
        _replace(self.folder / "results.json", json.dumps(lines, indent=1) + "\n")
        _replace(self.folder / "tables.md", "\n".join(tables(lines)) + "\n")

    def plots(self) -> None:
        """The two plots of the main networks."""
        names = {network.name for group in MAIN for network in group}
        for phase, x in (("grid", "optim.lr"), ("final", "epoch")):
            jobs = [
                job for job in dict.fromkeys(self.jobs) if job.phase == phase and job.network.name in names
            ]
            found = [result for job in jobs if (result := self.result(job)) is not None]
            if found:
                (self.folder / f"{phase}.png").write_bytes(draw_lines(found, "validation", x))


def next_rates(accuracies: Mapping[float, float]) -> list[float]:
    """The learning rates to try next: the neighbour beyond an optimum at the edge of the grid, or none."""
    best = max(accuracies, key=accuracies.__getitem__)
    if len(accuracies) >= MOST_RATES or min(accuracies) < best < max(accuracies):
        return []
    return [best / 2 if best == min(accuracies) else best * 2]


def last(result: Result, split: str) -> float:
    """The last accuracy on a split."""
    return result.accuracies[split][max(result.accuracies[split])]


def outcome(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {"state": "diverged"}
    return {
        "state": "done",
        "validation": last(result, "validation"),
        "test": last(result, "test"),
        "parameters": result.parameters,
        "multiply_adds": result.multiply_adds,
    }


def tables(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Two tables in Markdown: validation accuracy by learning rate, and test accuracy at the best one."""
    grid = [line for line in lines if line["run"].startswith("grid/")]
    rates = sorted({line["lr"] for line in grid})
    yield "| network | " + " | ".join(f"{lr:g}" for lr in rates) + " |"
    yield "| --- |" + " --- |" * len(rates)
    for name in dict.fromkeys(line["network"] for line in grid):
        cells = []
        for lr in rates:
            own = [
                100 * line.get("validation", 0.0)
                for line in grid
                if (line["network"], line["lr"]) == (name, lr)
            ]
            cells.append(f"{statistics.fmean(own):.1f}{'' if len(own) > 1 else ' (n = 1)'}" if own else "")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield "| network | learning rate | n | test accuracy % | minus static (95 %) | parameters | multiply-adds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    finals = [line for line in lines if line["run"].startswith("final/")]
    static = [line["test"] for line in finals if line["network"] == BASELINE and "test" in line]
    for name in dict.fromkeys(line["network"] for line in finals):
        own = [line for line in finals if line["network"] == name and "test" in line]
        if not own:
            yield f"| {name} | | 0 | diverged | | | |"
            continue
        found, first = [line["test"] for line in own], own[0]
        spread = f" ± {100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
        yield (
            f"| {name} | {first['lr']:g} | {len(found)} | {100 * statistics.fmean(found):.2f}{spread} | "
            f"{'–' if name == BASELINE or not static else interval(found, static)} | "
            f"{first['parameters'] / 1e6:.2f} M | {first['multiply_adds'] / 1e6:.1f} M |"
        )


def interval(values: Sequence[float], baseline: Sequence[float]) -> str:
    """Difference of the means in points, with Welch's interval."""
    found = difference(values, baseline)
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.2f}"
    return f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("work", type=Path, help="folder for runs and results")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time, of one thread each")
    parser.add_argument("--options", action="store_true", help="after everything else, the options")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    study = Study(chosen.data, chosen.work, chosen.size, chosen.parallel)
    with open(study.folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            parser.error(f"another process makes the study in {study.folder}")
        for group in MAIN:
            study.grids(group)
            if group is not MAIN[2]:
                study.finals(group)
            study.plots()
        wider = [
            Network(f"static, {what}", {"model.kind": "static", "model.width": width})
            for what, width in WIDER[chosen.size].items()
        ]
        study.grids(wider)
        study.finals(wider)
        if chosen.options:
            for option in OPTIONS:
                study.grids([option])
                study.finals([option])
        study.write()


def _end_with_parent() -> None:
    """Let the kernel stop a run whose study was killed: it saves, and the next start resumes it."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    main()
