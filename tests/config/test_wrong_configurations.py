"""Mistakes in the configuration: exit 2, one line that names the field and what is allowed, before torch is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from dydist.train import ended_by_launcher, main
from helpers.support import REPOSITORY

WRONG_FLAGS = [
    ("--optim.lrr 1", "optim.lrr: there is no such field; did you mean optim.lr?"),
    ("--lr 0.1", "lr: there is no such field; did you mean optim.lr?"),
    ("--model.depth 3", "model.depth: there is no such field"),
    ("--train.batch_sise 64", "did you mean train.batch_size?"),
    ("train.epochs 3", "'train.epochs' is not a flag; write --section.field value"),
    ("--train.epochs", "train.epochs: a value is missing"),
    ("--train.epochs three", "train.epochs: 'three' is not allowed; it must be a whole number"),
    ("--train.epochs 2.5", "train.epochs: 2.5 is not allowed; it must be a whole number"),
    ("--train.epochs 0", "train.epochs: 0 is not allowed; it must be a number of at least 1"),
    ("--train.epochs true", "train.epochs: True is not allowed"),
    ("--optim.lr fast", "optim.lr: 'fast' is not allowed; it must be a number"),
    ("--optim.lr -1", "optim.lr: -1 is not allowed"),
    ("--optim.lr nan", "optim.lr: nan is not allowed"),
    ("--optim.momentum 1", "optim.momentum: 1 is not allowed; it must be at least 0 and below 1"),
    ("--model.kind dynamc", "it must be one of dynamic, static; did you mean dynamic?"),
    (
        "--model.attention relu",
        "model.attention: 'relu' is not allowed; it must be one of softmax, sigmoid, l1",
    ),
    ("--model.strategy quick", "it must be one of auto, grouped, mix, blocked, fused, winograd, taps"),
    ("--model.width 0", "model.width: 0 is not allowed; it must be a number above 0"),
    ("--model.kernels 0", "model.kernels: 0 is not allowed"),
    ("--model.kind static --model.attention sigmoid", "model.attention: sigmoid needs model.kind=dynamic"),
    (
        "--model.kind static --model.channel_attention true",
        "model.channel_attention: True needs model.kind=dynamic",
    ),
    (
        "--model.dynamic layer5.*",
        "model.dynamic: 'layer5.*' matches none of the network's convolutions, such as",
    ),
    ("--model.spread 0", "model.spread: 0 is not allowed; it must be a number above 0"),
    ("--model.attention_min_hidden 0", "model.attention_min_hidden: 0 is not allowed"),
    (
        "--model.factory my_network.py",
        "model.factory: 'my_network.py' is not allowed; write package.module:function",
    ),
    ("--model.factory my.net:", "model.factory: 'my.net:' is not allowed"),
    ("--model.options {depth:3}", "model.options: they are those of a network of your own"),
    ("--model.convert true", "model.convert: true is for a network of your own"),
    ("--model.weights_classes other", "model.weights_classes: 'other' is not allowed"),
    ("--data.name mnist", "it must be one of cifar10, cifar100, digits, synthetic"),
    ("--data.augment maybe", "data.augment: 'maybe' is not allowed; it must be true or false"),
    ("--data.limit 0", "data.limit: 0 is not allowed"),
    ("--data.resized_crop 1.5", "data.resized_crop: 1.5 is not allowed; it must be a number of at most 1"),
    (
        "--data.colour_jitter -0.1",
        "data.colour_jitter: -0.1 is not allowed; it must be a number of at least 0",
    ),
    ("--data.mixup 0.2 --data.cutmix 1", "data.mixup: cannot be used together with data.cutmix"),
    ("--data.augment false --data.cutout 8", "data.augment: false contradicts data.cutout"),
    (
        "--train.batch_size 100",
        "cannot be cut into parallel.shards=8 equal shards; use a multiple of 8, such as 96 or 104",
    ),
    ("--parallel.shards 0", "parallel.shards: 0 is not allowed; it must be a number of at least 1"),
    ("--optim.milestones 0.5,[", "optim.milestones: '0.5,[' is not allowed; it must be a list"),
    ("--temperature.end 0", "temperature.end: 0 is not allowed; it must be a number above 0"),
    ("--temperature.start -30", "temperature.start: -30 is not allowed"),
    ("--optim.milestones 0.75,0.5", "optim.milestones: [0.75, 0.5] is out of order; use [0.5, 0.75]"),
    ("--optim.milestones 20,30", "optim.milestones: [20, 30] is not allowed; each is a fraction"),
    (
        "--optim.milestones half",
        "optim.milestones: ['half'] is not allowed; it must be a list, each a number",
    ),
    ("--optim.warmup_epochs 40", "optim.warmup_epochs: 40 leaves nothing of train.epochs=40"),
    ("--optim.momentum 0 --optim.nesterov true", "optim.nesterov: needs optim.momentum above 0"),
    ("--parallel.zero 2", "parallel.zero: 2 needs parallel.engine=deepspeed"),
    ("--parallel.zero 4", "parallel.zero: 4 is not allowed; it must be one of 0, 1, 2, 3"),
    (
        "--parallel.engine deepspeed --parallel.reduce exact",
        "parallel.reduce: exact needs parallel.engine=ddp",
    ),
    ("--checkpoint.resume latest", "checkpoint.resume: 'latest' is not allowed; use auto, never, a step"),
    (
        "--checkpoint.storage_options [1]",
        "checkpoint.storage_options: [1] is not allowed; it must be a mapping",
    ),
    ("--run.name a/b", "run.name: 'a/b' is not allowed; it must be a folder name"),
    *(
        (f"--{field} {place}", f"{field}: '{place}' is a URL, and this must be a path")
        for field in ("run.dir", "data.root", "checkpoint.stage_dir", "monitor.prometheus_file")
        for place in ("s3://b/x", "s3:/b/x", "file:///x", "file:x")
    ),
    ("--run.dir a/step-000000042/b", "lies inside a checkpoint, step-000000042"),
    ("--checkpoint.url s3:/b/x", "checkpoint.url: 's3:/b/x' is neither a path nor a URL; write s3://"),
    ("--checkpoint.url s3:b", "checkpoint.url: 's3:b' is neither a path nor a URL"),
    ("--checkpoint.url file:rel", "checkpoint.url: 'file:rel' is neither a path nor a URL"),
    ("--checkpoint.url s3://", "checkpoint.url: 's3://' names no bucket"),
    (
        "--checkpoint.url https://h/x",
        "checkpoint.url: 'https://h/x': https:// has no folders for checkpoints and logs",
    ),
    ("--checkpoint.resume https://h/x", "checkpoint.resume: 'https://h/x': https:// has no folders"),
    ("--monitor.logdir github://a:b@c/x", "github:// has no folders for checkpoints and logs"),
    ("--checkpoint.url sftp:///x", "checkpoint.url: 'sftp:///x' names no host"),
    ("--checkpoint.url S3://b/x", "did you mean s3://?"),
    ("--checkpoint.url stfp://h/x", "there is no protocol stfp://; did you mean sftp://?"),
    ("--checkpoint.url simplecache::s3://b/x", "is a chain of URLs"),
    ("--checkpoint.url a/step-000000003/x", "lies inside a checkpoint, step-000000003"),
    ("--checkpoint.url s3://b/step-000000003", "lies inside a checkpoint, step-000000003"),
    ("--monitor.logdir s3:/b/x", "monitor.logdir: 's3:/b/x' is neither a path nor a URL"),
    (
        "--checkpoint.resume s4://b/x",
        "checkpoint.resume: 's4://b/x': there is no protocol s4://; did you mean s3://?",
    ),
    ("--checkpoint.resume s3:/b/x", "checkpoint.resume: 's3:/b/x' is neither a path nor a URL"),
    ("--config nowhere.yaml", "--config: cannot read nowhere.yaml"),
    ("--config quickstart --config cifar10", "--config: given twice, quickstart and cifar10; give one file"),
    ("--config=quickstart --config quickstart", "--config: given twice"),
    ("--config /", "--config: cannot read / (Is a directory)"),
    ("--train.epochs --seed 3", "--train.epochs: a value is missing; write --train.epochs VALUE"),
    ("--run.name --config quickstart", "--run.name: a value is missing"),
    ("--data.limit=", "--data.limit: a value is missing ('' is empty)"),
    ("--train.profile=", "train.profile: '' is not allowed; give the first and the last step"),
    ("--train.compile_mode=", "--train.compile_mode: a value is missing"),
    *(
        (f"--train.epochs {one}", "train.epochs: ")
        for one in ("²", "٣", "1_0", "0x10", "010", "1e2", ".inf", "3,4")
    ),
    *(
        (f"--optim.lr {one}", "optim.lr: ")
        for one in ("²", "٠.١", "1_0.5", "0x1", "1e400", "inf", ".nan", "[1]")
    ),
    *((f"--checkpoint.resume {one}", "resume: ") for one in ("²", "٣", "1_0", "+3", "-1", "3.0", "")),
    *(
        (f"--train.profile {one}", "profile: ")
        for one in ("²:³", "1:²", "1:2:3", "1_0:20", "+1:2", "0:3", "5", ":")
    ),
    (f"--seed {10**30}", "seed: a number of 100 bits is not allowed; it must be a whole number of at most"),
    (f"--seed {'9' * 5000}", "seed: "),
    (f"--optim.lr {'9' * 400}", "optim.lr: "),
    (
        f"--model.kernels {10**9}",
        "model.kernels: 1000000000 is not allowed; it must be a number of at most 1,000",
    ),
    ("--parallel.timeout_s 1e300", "parallel.timeout_s: 1e+300 is not allowed"),
    ("--model.width 1e9", "model.width: 1000000000.0 is not allowed"),
    (f"--optim.milestones {'[' * 5000}", "optim.milestones: "),
    ("--optim.milestones .nan", "optim.milestones: [nan] is not allowed"),
    ("--checkpoint.storage_options {a:1,a:2", "checkpoint.storage_options: it is not a mapping"),
    *(
        (f"--run.name {one}", "run.name: ")
        for one in ("..", ".", "a/b", "a\\b", "a\x1b[31m", "a\u202eb", "x" * 201, "\udcff")
    ),
    ("--run.dir ~nobody-of-that-name/x", "run.dir: '~nobody-of-that-name/x': there is no user"),
]

WRONG_FILES = [
    ("- a list", "it must hold sections such as 'model:'"),
    ("model: [", "is not YAML"),
    ("model: 3", "model: 3 is not a section"),
    ("modell: {}", "modell: there is no such field; did you mean model?"),
    ("model: {kernel: 3}", "model.kernel: there is no such field; did you mean model.kernels?"),
    ("train: {epochs: '3 of them'}", "train.epochs: '3 of them' is not allowed"),
    ("optim: {milestones: 0.5}", "optim.milestones: 0.5 is not allowed; it must be a list"),
    ("optim: {lr: 1}\noptim: {momentum: 0.5}", "line 2: optim is there twice, first in line 1"),
    ("optim: {lr: 1, lr: 2}", "line 1: optim.lr is there twice"),
    ("checkpoint: {storage_options: {key: {a: x, a: y}}}", "checkpoint.storage_options.key.a is there twice"),
    ("model: {options: {d: [{1: 2}]}}  # recipe.yaml", "must be a mapping in which every key is a text"),
    ("run: {name: 12}", "run.name: 12 is not allowed; it must be a text; put it in quotes"),
    ("run: {name: yes}", "run.name: True is not allowed; it must be a text; put it in quotes"),
    ("train: {epochs: 1_0}", "epochs: '1_0' is not allowed"),
    ("train:\n\tepochs: 1", "line 2: found character '\\t' that cannot start any token; indent with blanks"),
    ("model:", "model: None is not a section"),
    ("a: &a [*a]", "an alias stands for what it is in itself"),
    ("[" * 5000, "nested too deeply"),
    ("\0", "special characters are not allowed"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG_FLAGS, ids=[flags for flags, _ in WRONG_FLAGS])
def test_a_wrong_flag_ends_with_2_and_says_what_is_right(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags.split()) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("dydist: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(("text", "message"), WRONG_FILES, ids=[text for text, _ in WRONG_FILES])
def test_a_wrong_file_ends_with_2_and_names_it(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert main(["--config", str(recipe)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert "recipe.yaml" in err or "epochs" in err or "milestones" in err


def test_more_processes_than_shards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert main([]) == 2
    assert "parallel.shards: 8 shards cannot be shared by 16 processes" in capsys.readouterr().err


def test_one_process_a_node_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["--lr", "1"]) == 2
    assert "rank 9 on " in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("dydist.train.stop_with_parent", lambda: None)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()  # as the launcher does
    assert main(["--lr", "1"]) == 2
    assert capsys.readouterr().err == ""


def test_the_reason_is_told_although_another_process_fails_first(tmp_path: Path) -> None:
    """The first process of the node starts a second late; the launcher kills it with whoever fails before it."""
    late = tmp_path / "late.py"
    late.write_text(
        "import os, runpy, sys, time\n"
        "time.sleep(1 if os.environ['LOCAL_RANK'] == '0' else 0)\n"
        f"sys.argv[0] = {str(REPOSITORY / 'dydist' / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, str(late), "--lr", "1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("--lr") == 1, done.stderr


def test_what_is_wrong_for_one_process_alone_is_told_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("dydist.train.stop_with_parent", lambda: None)
    monkeypatch.setattr("dydist.train.ended_by_launcher", partial(ended_by_launcher, within_s=0.1))
    assert main(["--lr", "1"]) == 2
    assert "rank 1 on " in capsys.readouterr().err


def test_every_broken_rule_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--train.epochs", "0", "--temperature.end", "0", "--train.batch_size", "100"]) == 2
    err = capsys.readouterr().err
    assert all(field in err for field in ("train.epochs", "temperature.end", "train.batch_size"))


def test_a_mistake_is_told_in_under_two_seconds_and_without_torch() -> None:
    code = (
        "import sys, dydist.train as t; code = t.main(['--optim.lrr', '1']); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 2
    script = [sys.executable, str(REPOSITORY / "dydist" / "train.py"), "--train.batch_size", "100"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 2
    assert "train.batch_size" in done.stderr
    assert time.monotonic() - began < 4
