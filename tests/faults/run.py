"""Thirty faults made by hand, over all packages: does the ordinary suite notice each?

    python tests/faults/run.py              # all of them
    python tests/faults/run.py lease order  # those with one of these words in their name

Each is one change of the code, in a copy of the project, and meets the ordinary tests named beside it: those of its
package, not the whole suite. Exit code 0 if every one was caught.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """`old` occurs once in `file` and becomes `new`; `tests`: arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = [
    Fault(
        "order: every epoch has the order of the first", "data/order.py",
        'generator(seed, "order", epoch)', 'generator(seed, "order", 0)', "tests/data/test_order.py",
    ),
    Fault(
        "order: ranks with one shard more overlap", "data/order.py",
        "start = rank * base + min(rank, extra)", "start = rank * base", "tests/data/test_order.py",
    ),
    Fault(
        "augmentation: upside down", "data/augment.py",
        "images.flip(3)", "images.flip(2)", "tests/data/test_augment.py",
    ),
    Fault(
        "loader: the last batch counts as a full one", "data/loader.py",
        "self.order.batch_count(step % self.order.steps_per_epoch)", "self.order.batch_size",
        "tests/data/test_loader.py tests/engine/test_engines.py",
    ),
    Fault(
        "randomness: keys run together", "randomness.py",
        'name = ":".join(', 'name = "".join(', "tests/test_randomness.py",
    ),
    Fault(
        "schedule: warm-up begins at zero", "schedules.py",
        "optim.lr * (step + 1) / math.ceil(warmup)", "optim.lr * step / math.ceil(warmup)", "tests/test_schedules.py",
    ),
    Fault(
        "tree: split in the middle", "engine/tree.py",
        "low + (1 << (high - low - 1).bit_length() - 1)", "(low + high + 1) // 2", "tests/engine/test_tree.py",
    ),
    Fault(
        "exact: a used buffer is not zeroed", "engine/exact.py",
        "self._pool.pop().zero_()", "self._pool.pop()", "tests/engine/test_engines.py tests/engine/test_exact.py",
    ),
    Fault(
        "averaged weights: decay the wrong way round", "engine/ema.py",
        "1 - self.decay)", "self.decay)", "tests/engine/test_engines.py",
    ),
    Fault(
        "evaluation: every process takes every block", "engine/evaluate.py",
        "range(world.rank, blocks, world.size)", "range(blocks)",
        "tests/engine/test_evaluate.py tests/run/test_train.py -k evaluate",
    ),
    Fault(
        "batch norm: the mean is taken for the variance", "models/batchnorm.py",
        "self._var_sum.add_(var.view(", "self._var_sum.add_(mean.view(", "tests/models/test_batchnorm.py",
    ),
    Fault(
        "attention: the temperature multiplies", "models/attention.py",
        "else hidden) / self.temperature", "else hidden) * self.temperature",
        "tests/models/test_dynamic_layers.py",
    ),
    Fault(
        "taps: dilation is left out", "models/strategies/taps.py",
        "tap * dilation - padding", "tap - padding", "tests/models/test_strategies.py",
    ),
    Fault(
        "keep: the worst checkpoint is kept for the best", "checkpoint/_policy.py",
        "kept.add(max(rated", "kept.add(min(rated", "tests/checkpoint/test_checkpointer.py",
    ),
    Fault(
        "save: the one that waits is not replaced", "checkpoint/_policy.py",
        "(phases.intersection(WAITING) or (final", "(not phases or (final", "tests/checkpoint/test_many_processes.py",
    ),
    Fault(
        "lease: another run's is given back", "checkpoint/_lease.py",
        "if raw is not None and self._is_me(raw):\n                storage.delete",
        "if raw is not None:\n                storage.delete",
        "tests/checkpoint/test_lease.py tests/checkpoint/test_waiting.py",
    ),
    Fault(
        "disk: swaps of a process that died are not finished", "storage/local.py",
        "sorted(names | self._finish_swaps(names))", "sorted(names)",
        "tests/checkpoint/test_storage.py tests/checkpoint/test_idempotence.py",
    ),
    Fault(
        "disk: the manifest is removed last", "storage/local.py",
        "_remove(path / MANIFEST)", "pass", "tests/checkpoint/test_storage.py tests/checkpoint/test_idempotence.py",
    ),
    Fault(
        "retry: a read begins again from the start", "storage/retry.py",
        "_skip(self.inner.read(name), given)", "_skip(self.inner.read(name), 0)",
        "tests/checkpoint/test_idempotence.py",
    ),
    Fault(
        "retry: 503 is for good", "storage/transient.py",
        "_PERMANENT_HTTP = {400,", "_PERMANENT_HTTP = {503, 400,",
        "tests/checkpoint/test_bad_stores.py tests/checkpoint/test_bad_network.py",
    ),
    Fault(
        "stop: the last signal names the reason", "process/stop.py",
        "self.signal = self.signal or number", "self.signal = number",
        "tests/process tests/checkpoint/test_waiting.py -k signal",
    ),
    Fault(
        "rollback: a loss that fell again stays raised", "run/rollback.py",
        "calm, wild = step, None", "calm = step", "tests/run/test_rollback.py",
    ),
    Fault(
        "job: an error that recurs is tried once more", "jobs/decide.py",
        '("error", "launch") and count > 0', '("error", "launch") and count > 1', "tests/jobs/test_decide.py",
    ),
    Fault(
        "job: a cancelled one comes back", "jobs/decide.py",
        "    if cancelled:\n", "    if False:\n", "tests/jobs/test_decide.py",
    ),
    Fault(
        "metrics: a resume drops the step it goes on from", "monitor/outputs/jsonlines.py",
        "step + 1) <= step)", "step + 1) < step)", "tests/monitor/test_jsonlines.py",
    ),
    Fault(
        "alerts: any loss above the median has exploded", "monitor/outputs/alerts.py",
        "loss > EXPLODING * usual", "loss > usual", "tests/monitor/test_alerts.py",
    ),
    Fault(
        "compare: small differences are none", "compare/two.py",
        "a[name] != b[name]]", "abs(a[name] - b[name]) > 1e-2]", "tests/compare tests/cli/test_compare.py",
    ),
    Fault(
        "rules: a batch need not divide into shards", "config/rules.py",
        "    if batch % shards:\n", "    if batch < shards:\n",
        "tests/config/test_wrong_configurations.py tests/docs/test_configuration_page.py",
    ),
    Fault(
        "secrets: storage options are shown", "text/redaction.py",
        "changes[field.name] = redact(value, open_=is_open(field))", "changes[field.name] = dict(value)",
        "tests/text/test_redaction.py tests/hostile/test_planted_secret.py",
    ),
    Fault(
        "calibration: bins count alike", "inference/calibration.py",
        "error += images / len(confidence) *", "error += 1 / bins *", "tests/inference/test_calibration.py",
    ),
    Fault(
        "private files: what others can write is believed", "private_files.py",
        "return mine and stat.S_ISREG(found.st_mode) and not found.st_mode & WRITABLE_BY_OTHERS",
        "return mine and stat.S_ISREG(found.st_mode)", "tests/hostile/test_private_files.py",
    ),
    Fault(
        "command line: runs that differ exit with 0", "cli/compare.py",
        "\n    return 0 if result.equal else 1", "\n    return 0", "tests/cli/test_compare.py",
    ),
]  # fmt: skip


def copy(folder: Path) -> None:
    """The files of the project that git knows of, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_symlink() or (REPOSITORY / name).is_file():
            shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)


def failing_test(folder: Path, tests: str) -> str | None:
    """The first ordinary test that fails in this copy of the project, None if all pass."""
    data = os.environ.get("DYDIST_TEST_DATA", str(REPOSITORY.parent / "shared" / "data"))
    environment = os.environ | {"PYTHONPATH": str(folder), "DYDIST_TEST_DATA": data, "CI": "true"}
    words = f"{sys.executable} -m pytest -q -x -p no:cacheprovider --no-header {tests}"
    done = subprocess.run(words, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        return None
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return lines[0].split(" - ")[0]


def main(words: list[str]) -> int:
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="dydist-faults-") as temporary:
        folder = Path(temporary) / "project"
        copy(folder)
        for fault in chosen:
            path = folder / "dydist" / fault.file
            text = path.read_text(encoding="utf-8")
            assert text.count(fault.old) == 1, f"{fault.file} has changed: {fault.old!r} is not there once"
            path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
            began = time.monotonic()
            found = failing_test(folder, fault.tests)
            path.write_text(text, encoding="utf-8")
            missed += found is None
            verdict = "MISSED" if found is None else "caught"
            print(f"{verdict} {time.monotonic() - began:4.0f} s  {fault.name}: {found}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
