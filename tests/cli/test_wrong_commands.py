"""Mistyped commands: each is refused in one line that says what is right, ends with 2, and writes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dydist.cli.main import SECTIONS, commands, main, overview
from helpers.support import REPOSITORY

WRONG = {
    "trian": "trian: there is no such command",
    "checkpont list r": "checkpont: there is no such command; did you mean checkpoint?",
    "lst": "lst: there is no such command; did you mean checkpoint list?",
    "tensorbord r": "did you mean tensorboard?",
    "train --config quickstart": "write accelerate launch -m dydist.train",
    "checkpoint lst r": "checkpoint lst: there is no such command; did you mean list?",
    "bench convv": "did you mean conv?",
    "--verbose": "--verbose: there is no such command",
    "evaluate": "checkpoint: a value is missing; write dydist evaluate CHECKPOINT",
    "evaluate nowhere": "checkpoint: no checkpoint at nowhere, there is no such folder",
    "evaluate file": "that is a file; give a run's folder",
    "evaluate empty": "no valid checkpoint at empty",
    "evaluate runs/r --step 4": "--step: there is no valid checkpoint of step 4",
    "evaluate runs/r --step ٣": "--step: '٣' is not allowed; it must be a whole number",
    "evaluate runs/r --step -1": "--step: -1 is not allowed; it must be at least 0",
    "evaluate runs/r --step 1_0": "--step: '1_0' is not allowed",
    "evaluate runs/r --step": "--step: a value is missing; write --step VALUE",
    "evaluate runs/r --step=": "--step: a value is missing",
    "evaluate runs/r --stpe 3": "--stpe: dydist evaluate has no such option; did you mean --step?",
    "evaluate runs/r --flip=yes": "--flip: takes no value",
    "evaluate runs/r --split val": "--split: 'val' is not allowed; it must be one of test, train",
    "evaluate runs/r --data-root ~nobody9/x": "--data-root: '~nobody9/x': there is no user",
    "evaluate runs/r --storage-options {a:1}": "--storage-options: not a JSON object",
    "evaluate runs/r runs/r": "'runs/r': dydist evaluate takes no such word",
    "evaluate s3:/b/x": "checkpoint: 's3:/b/x' is neither a path nor a URL; write s3://",
    "evaluate s3://": "checkpoint: 's3://' names no bucket",
    "predict runs/r": "predict: no picture was given",
    "predict runs/r file --top 0": "--top: 0 is not allowed; it must be at least 1",
    "predict -t 3 runs/r file": "-t: dydist predict has no such option",
    "export runs/r": "--to: a value is missing",
    "export runs/r --to pdf": "--to: 'pdf' is not allowed; it must be one of onnx, torch-export, safetensors",
    "export runs/r --to safetensors --output s3://b/x": "--output: 's3://b/x' is a URL, and this must be a path",
    "report runs/r --output s3:/b/x.html": "--output: 's3:/b/x.html' is a URL, and this must be a path",
    "report runs/r --output runs/r/checkpoints/step-000000042/x": "--output: ",
    "compare runs/r runs/r --csv file:x.csv": "--csv: 'file:x.csv' is a URL",
    "preflight --cpu --folder s3://b/x": "--folder: 's3://b/x' is a URL",
    "checkpoint list ftp://nowhere.invalid/x": "Name or service not known; correct the host in the URL",
    'checkpoint list s3://b/x --storage-options {"endpoint_url":"nonsense"}': "Invalid endpoint: nonsense; correct",
    "help nope": "nope: there is no such command",
    "help checkpoint lst": "checkpoint lst: there is no such command; did you mean list?",
    "compare": "compare: give two folders of runs",
    "compare runs/r nowhere": "nowhere: holds no run",
    "compare runs/r runs/r --plot x.jpg": "--plot: x.jpg is no name of a PNG file",
    "compare runs/r runs/r --csv empty": "--csv: cannot write empty (Is a directory)",
    "compare runs/r runs/r --csv /proc/x": "--csv: cannot write /proc/x",
    "compare runs/r runs/r --csv=full/x.csv": "No space left on device",
    "report": "report: no run was given",
    "report runs": "runs: not a run folder",
    "report runs/r --output file/r.html": "--output: cannot write file/r.html",
    "report runs/r --output full/r.html": "No space left on device",
    "tensorboard": "tensorboard: nothing to show was given",
    "tensorboard runs/r --port 99999": "--port: 99999 is not allowed; it must be at most 65535",
    "tensorboard runs/r --port TAKEN --host 127.0.0.1": "--port: cannot listen on 127.0.0.1:TAKEN (Address already",
    "tensorboard runs/r --every-s 0": "--every-s: 0 is not allowed; it must be above 0",
    "tensorboard runs/r --mirror file": "--mirror: file is a file",
    "tensorboard stfp://h/x": "did you mean sftp://?",
    "checkpoint list nowhere": "url: no checkpoint at nowhere",
    "checkpoint verify runs/r --step 4": "url: no checkpoint of step 4",
    "checkpoint prune runs/r --keep 0": "--keep: 0 is not allowed",
    "checkpoint prune runs/r --keep-every-steps 0": "--keep-every-steps: 0 is not allowed",
    "checkpoint prune runs/r/checkpoints/step-000000042": "is one checkpoint; give the folder that holds it",
    "checkpoint copy runs/r": "target: a value is missing; write dydist checkpoint copy SOURCE TARGET",
    "checkpoint copy runs/r file": "target: file is a file",
    "checkpoint copy runs/r /proc/x": "target: cannot write /proc/x",
    "checkpoint copy runs/r x --step 9": "url: no checkpoint of step 9",
    "checkpoint copy runs/r s3:/b/x": "target: 's3:/b/x' is neither a path nor a URL",
    "data prepare --name mnist": "--name: 'mnist' is not allowed",
    "data prepare --name cifar10 --root file": "data.root: file is not a folder",
    "status nosuch": "'nosuch' is no job, run folder or run",
    "logs": "which: a value is missing",
    "logs nosuch --tail -3": "--tail: -3 is not allowed; it must be at least 1",
    "cancel": "cancel: name at least one job",
    "check --steps 1": "check: --steps 1 --images 4 are too few",
    "check --engine fast": "--engine: 'fast' is not allowed; it must be one of exact, ddp, deepspeed",
    "check -- quickstart --steps 4": "--steps: it is an option of dydist check; write it before --",
    "check --processes 9 -- quickstart": "parallel.shards: 4 shards cannot be shared by 9 processes",
    "submit": "submit: no recipe is named",
    "submit -- nosuch": "--config: cannot read nosuch",
    "submit quickstart --optim.lr 1": "a run's own flags come after --",
    "submit -- quickstart --optim.lrr 1": "did you mean optim.lr?",
    "submit --cpu -- quickstart --nodes 2": "--nodes: it is an option of dydist submit; write it before --",
    "submit -- quickstart --optim.lr 1 --dry_run": "--dry_run: it is an option of dydist submit",
    "submit -- quickstart --node=2": "--node: did you mean --nodes? That is an option of dydist submit",
    "submit -- quickstart --lr 1": "did you mean optim.lr?",
    "sweep --name s -- quickstart --seeds 3": "--seeds: it is an option of dydist sweep",
    "preflight -- quickstart --profile site": "--profile: it is an option of dydist preflight",
    "submit --cpu -- quickstart": "sbatch: ",
    "submit --cpu --nodes ٣ -- quickstart": "--nodes: '٣' is not allowed",
    "submit --cpu --nodes 0 -- quickstart": "--nodes: 0 is not allowed",
    "submit --cpu --nodes 2 --min-nodes 3 -- quickstart": "--min-nodes: 3 is more than nodes=2",
    "submit --cpu --sbatch time=5 -- quickstart": "--sbatch time: is a field of its own; use --time",
    "submit --cpu --sbatch t=5 -- quickstart": "--sbatch t: is a field of its own; use --time",
    "submit --cpu --sbatch gpus=5 -- quickstart": "--sbatch gpus: cannot be set here: use --gpus-per-node",
    "submit --cpu --sbatch signal=5 -- quickstart": "--sbatch signal: cannot be set here: set warning_s in a profile",
    "submit --cpu --sbatch clusters=b -- quickstart": "set SLURM_CLUSTERS, which status",
    "submit --cpu --sbatch exclusive -- quickstart": "set exclusive in a profile",
    "submit --cpu --time tomorrow -- quickstart": "--time: 'tomorrow' is not allowed",
    "submit --cpu --gpus-per-node 2 -- quickstart": "--cpu: contradicts --gpus-per-node 2",
    "submit --cpu --gres gpu:2 -- quickstart": "--cpu: contradicts gres: 'gpu:2', which asks for gpu:2; leave it out",
    "submit --cpu --profile nosuch -- quickstart": "--profile: there is no profile 'nosuch'",
    "submit --cpu --profile ./twice.yaml -- quickstart": "nodes is there twice",
    "submit --cpu --profile ./typo.yaml -- quickstart": "did you mean nodes?",
    "submit --cpu --sbatch -- quickstart": "--sbatch: a value is missing",
    "submit --cluster locl -- quickstart": "did you mean local?",
    "sweep": "--name: a value is missing",
    "sweep --name s": "sweep: neither a recipe nor a grid is given",
    "sweep --name a/b -- quickstart": "--name: 'a/b' is not allowed; it must be a folder name",
    "sweep --name .. -- quickstart": "--name: '..' is not allowed",
    "sweep --name s --grid optim.lr -- quickstart": "is not FIELD=VALUE,VALUE",
    "sweep --name s --grid optim.lr=1 optim.lr=2 -- quickstart": "optim.lr is there twice; give all its values in one",
    "sweep --name s --grid data.root=/x/y,/x_y -- quickstart": "two runs would have the folder",
    "sweep --name s --seeds 2 -- quickstart --seed 7": "--seed: a sweep sets it for each run",
    "sweep --name s --seeds 2 -- quickstart --run.name=x": "--run.name: a sweep sets it for each run",
    "sweep --name s --seeds 0 -- quickstart": "--seeds: 0 is not allowed",
    "sweep --name s --parallel 0 -- quickstart": "--parallel: 0 is not allowed",
    "sweep --name s --cluster local -- quickstart": "--cluster: local has no queue",
    "preflight -- nosuch": "--config: cannot read nosuch",
    "files nosuch": "files: there is no 'nosuch'",
    "files a b": "'b': dydist files takes no such word",
    "bench conv --pairs 0": "--pairs: 0 is not allowed",
    "bench checkpoint --dir nowhere": "--dir: nowhere is no folder",
    "bench loader --workers -1": "--workers: -1 is not allowed; it must be at least 0",
    "bench step --batch-size 0": "--batch-size: 0 is not allowed",
}
"""What a person types, and a part of what dydist says to it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a run, and what people point at by mistake. `full` has no room, where that can be made."""
    folder = tmp_path_factory.mktemp("world")
    run = folder / "runs" / "r"
    shutil.copytree(REPOSITORY / "tests/checkpoint/format-1", run / "checkpoints")
    (run / "metrics.jsonl").write_text("")
    (folder / "file").touch()
    for name in ("empty", "full", "bin"):
        (folder / name).mkdir()
    (folder / "twice.yaml").write_text("nodes: 1\nnodes: 2\n")
    (folder / "typo.yaml").write_text("nodez: 1\n")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder / "full")]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    if mounted:
        with pytest.raises(OSError, match="No space"):
            (folder / "full" / "ballast").write_bytes(bytes(1 << 16))
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder / "full")], check=True)


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_size) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_told_in_one_line(
    line: str, world: Path, taken: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "full/" in line and not os.path.ismount(world / "full"):
        pytest.skip("a file system without room can be mounted by root alone")
    monkeypatch.chdir(world)
    monkeypatch.setenv("PATH", str(world / "bin"))  # no SLURM
    monkeypatch.setenv("XDG_STATE_HOME", str(world / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world / "config"))
    before = files(world)
    assert main([word.replace("TAKEN", taken) for word in line.split()]) == 2
    out, err = capsys.readouterr()
    assert WRONG[line].replace("TAKEN", taken) in err
    assert err.startswith("dydist: ")
    assert (out, err.count("\n")) == ("", 1)
    assert len(err) < 600
    assert files(world) == before


def test_every_command_is_mistyped_once() -> None:
    assert [
        words for words in commands() if not any(f"{line} ".startswith(f"{words} ") for line in WRONG)
    ] == []


def test_home_is_expanded_in_every_option_that_is_a_path(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell expands neither `--csv=~/x` nor what stands in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(world)
    shutil.copytree(world / "runs", tmp_path / "runs")
    assert main(["compare", "runs/r", "~/runs/r", "--csv=~/x.csv"]) == 0
    assert main(["report", "~/runs/r", "--output=~/new/r.html", "--no-png"]) == 0
    assert main(["checkpoint", "copy", "~/runs/r", "~/copied"]) == 0
    assert {"x.csv", "new", "copied"} <= {path.name for path in tmp_path.iterdir()}
    assert not (world / "~").exists()
    capsys.readouterr()
    assert main(["checkpoint", "list", "~/copied", "--json"]) == 0
    assert [one["step"] for one in json.loads(capsys.readouterr().out)] == [42]


def test_a_run_as_the_target_of_a_copy_is_its_place(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    assert main(["checkpoint", "copy", str(world / "runs/r"), str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000042"]


def test_the_overview_is_short_whole_and_quick() -> None:
    """No torch, no tyro; the processor's time, which other work on this machine does not lengthen."""
    for text in (overview(), overview("checkpoint"), overview("bench")):
        assert len(text.splitlines()) < 45
        assert max(map(len, text.splitlines())) <= 100
    shown = overview() + overview("bench")
    assert [words for words in commands() if f"  {words} " not in shown] == []
    assert list(SECTIONS) == ["Train", "Jobs", "Checkpoints", "Results", "Tools"]
    code = (
        "import sys, time; from dydist.cli.main import main; main([]); "
        "assert not {'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules); assert time.process_time() < 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == overview().splitlines()


def test_what_a_disk_or_a_store_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors that are of no mistake in the command end with exit 1; a mistake of the program keeps its traceback."""
    from botocore.exceptions import NoCredentialsError

    def raises(error: Exception) -> None:
        monkeypatch.setattr("dydist.cli.files.COMMANDS", {"files": lambda: (_ for _ in ()).throw(error)})

    for error in (
        PermissionError(13, "Permission denied", "x"),
        OSError(28, "No space left"),
        NoCredentialsError(),
    ):
        raises(error)
        assert main(["files"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    for bug in (KeyError("x"), BrokenPipeError()):
        raises(bug)
        with pytest.raises(type(bug)):
            main(["files"])
