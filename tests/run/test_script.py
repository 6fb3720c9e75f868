"""A run that a program starts by `dydist.train`, with a network, images and a loss of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

import dydist
from dydist.compare.two import compare_runs
from dydist.config import Config, DataConfig, OptimConfig, TrainConfig
from dydist.config.reader import build, values_of
from dydist.data.loader import ShardGroup
from dydist.engine.loss import examine_loss, group_loss
from dydist.errors import UserError
from dydist.run.own_network import changes
from dydist.user_function import load_function, name_of, passing
from helpers.support import REPOSITORY, Run, metrics

SETTINGS = {
    "train": {"epochs": 2, "batch_size": 16, "eval_batch_size": 10},
    "parallel": {"shards": 4, "reduce": "exact", "threads": 1},
    "monitor.quiet": True,
    "monitor.every_steps": 1,
    "optim.lr": 0.05,
}


def make(num_classes: int, image_shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(num_classes)
    )


def images(split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    draws = np.random.default_rng(len(split))
    labels = np.arange(36) % 3
    pixels = draws.integers(0, 80, (36, 6, 6, 3)) + 60 * labels[:, None, None, None]
    return pixels.astype(np.uint8), labels, ["low", "middle", "high"]


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Lin et al., arXiv:1708.02002, with gamma 1; the mean over the images. Sends a signal if it is told to."""
    if os.environ.pop("STOP", None):
        os.kill(os.getpid(), signal.SIGTERM)
    loss = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - torch.exp(-loss)) * loss).mean()


def own(**more: Any) -> dict[str, Any]:
    """The network as an object that cannot be imported, the images as arrays."""

    def network(num_classes: int, image_shape: tuple[int, ...]) -> nn.Module:
        made = make(num_classes, image_shape)
        made(torch.zeros(2, *image_shape))
        return made

    return {
        "model": network,
        "dataset": {split: images(split) for split in ("train", "test")},
        "loss": focal,
        **more,
    }


def test_two_objects_of_the_same_name_are_both_used(tmp_path: Path) -> None:
    folder = dydist.train(
        {**SETTINGS, "run.dir": tmp_path, "run.name": "run", "train.max_steps": 1},
        model=lambda num_classes, image_shape: nn.Sequential(nn.Flatten(), nn.Linear(108, num_classes)),
        dataset=lambda split: images(split),
        loss=lambda logits, targets: F.cross_entropy(logits, targets),
    )
    values = yaml.safe_load((folder / "config.yaml").read_text())
    assert [values["model"]["factory"], values["data"]["factory"], values["train"]["loss"]] == [
        "given:lambda"
    ] * 3
    with pytest.raises(
        UserError, match=r"^train\.loss: given:lambda was passed .*; start the same program, or train"
    ):
        load_function("train.loss", "given:lambda")


def test_a_source_that_a_program_does_not_record_is_no_change() -> None:
    program, recipe = {"options": {}, "source": None}, {"options": {}, "source": "a"}
    assert changes(program, recipe) == changes(recipe, program) == changes({}, recipe) == []
    assert changes(recipe, {"options": {"width": 2}, "source": "b"}) == ["options", "source"]
    assert changes(recipe, {}) == ["options"]


def call() -> None:
    """In a training process: `dydist.train`, in place of what the helper would call."""
    _end(lambda: dydist.train({**SETTINGS, "run.dir": os.environ["RUNS"]}, sys.argv[1:], **own()))


def call_and_stop() -> None:
    os.environ["STOP"] = "1"
    call()


def call_with_unequal_modules() -> None:
    torch.manual_seed(int(os.environ["RANK"]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 3))
    _end(lambda: dydist.train({**SETTINGS, "run.dir": os.environ["RUNS"]}, **own(model=network)))


def _end(train: Callable[[], Path]) -> None:
    sys.argv = ["program", "--run.name", os.environ["NAME"]]
    try:
        print("trained", train(), flush=True)
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 99)
    os._exit(0)


def test_one_and_two_processes_give_the_same_bits_and_the_run_is_loaded_with_its_objects(
    tmp_path: Path,
) -> None:
    for world_size, name in ((1, "one"), (2, "two")):
        run = Run([], world_size, tmp_path / "logs" / name, call, RUNS=str(tmp_path), NAME=name)
        assert run.wait() == [0] * world_size, run.text()
        assert f"trained {tmp_path / name}" in run.text()
    assert compare_runs(tmp_path / "one", tmp_path / "two").equal
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert config["model"]["factory"] == "given:network"
    assert config["data"]["factory"] == "given:arrays"
    assert config["train"]["loss"] == f"{__name__}:focal"
    with pytest.raises(
        UserError, match=r"given:network was passed to dydist\.train .* dydist\.load\(RUN, model=…\)"
    ):
        dydist.load(tmp_path / "one")
    model = dydist.load(tmp_path / "one", model=own()["model"])
    pixels, labels, names = images("test")
    right = sum(a == names[b] for a, b in zip(model.predict(pixels), labels, strict=True))
    assert right / len(labels) == metrics(tmp_path / "one", "evaluation")[-1]["accuracy"] == model.accuracy


def test_a_network_whose_weights_differ_between_processes_is_refused(tmp_path: Path) -> None:
    run = Run([], 2, tmp_path / "log", call_with_unequal_modules, RUNS=str(tmp_path), NAME="run")
    assert run.wait() == [2, 2]
    assert "process 1 was passed given:Sequential with other weights than process 0" in run.text()


PROGRAM = """
import os, signal, sys
import dydist

def make(num_classes):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))

def loss(logits, targets):
    from torch.nn.functional import cross_entropy
    if os.environ.get("STOP_AT") == str(loss.calls):
        os.kill(os.getpid(), signal.SIGTERM)
    loss.calls += 1
    return cross_entropy(logits, targets)

loss.calls = 0
settings = {"run.name": "mine", "parallel.shards": 1, "data.limit": 160, "train.batch_size": 16, "train.epochs": 1}

if __name__ == "__main__":
    print("trained", dydist.train({"data.name": "digits", **settings}, sys.argv[1:], model=make, loss=loss))
"""


def call_twice() -> None:
    sys.argv = ["program"]
    settings = {**SETTINGS, "run.dir": os.environ["RUNS"], "train.max_steps": 1}
    dydist.train({**settings, "run.name": "first"}, **own())
    _end(lambda: dydist.train({**settings, "run.name": "second"}, **own()))


def test_a_second_run_of_several_processes_is_refused(tmp_path: Path) -> None:
    run = Run([], 2, tmp_path / "log", call_twice, RUNS=str(tmp_path), NAME="run")
    assert run.wait() == [2, 2], run.text()
    assert "this program has trained once on 2 processes" in run.text()
    assert (tmp_path / "first").exists()
    assert not (tmp_path / "second").exists()


def test_a_signal_ends_the_call_with_75_and_the_same_call_goes_on(tmp_path: Path) -> None:
    first = Run([], 1, tmp_path / "first", call_and_stop, RUNS=str(tmp_path), NAME="run")
    assert first.wait() == [75], first.text()
    assert "trained" not in first.text()
    again = Run([], 1, tmp_path / "again", call, RUNS=str(tmp_path), NAME="run")
    assert again.wait() == [0], again.text()
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.long  # starts Python and torch three times
def test_a_program_stops_with_75_goes_on_by_the_same_command_and_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "my_train.py").write_text(PROGRAM)

    def started(*flags: str, code: int, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "my_train.py", *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    assert "trained" not in started(code=75, STOP_AT="6")
    assert "trained runs/mine" in started(code=0)
    steps = [line["step"] for line in metrics(tmp_path / "runs" / "mine")]
    assert len(steps) == len(set(steps))
    assert "optim.lr: -1" in started("--optim.lr", "-1", code=2)
    config = yaml.safe_load((tmp_path / "runs" / "mine" / "config.yaml").read_text())
    assert config["model"]["factory"] == "my_train:make"


def test_a_module_that_trains_while_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unguarded.py").write_text("import dydist\ndef make(): ...\ndydist.train(model=make)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"^unguarded: it calls dydist.train while it is imported .* __name__ == '__main__':$"
    ):
        load_function("model.factory", "unguarded:make")


def test_the_interface_costs_nothing_until_it_is_used() -> None:
    code = "import dydist, sys; print(*{'torch', 'numpy', 'yaml', 'rich', 'dydist.train'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert {"train", "submit", "status", "load"} <= set(dir(dydist))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = dydist.trian


def test_names_of_objects() -> None:
    assert name_of(make) == f"{__name__}:make"
    assert name_of(F.cross_entropy) == "torch.nn.functional:cross_entropy"
    assert name_of(nn.CrossEntropyLoss) == "torch.nn.modules.loss:CrossEntropyLoss"
    assert name_of(nn.CrossEntropyLoss()) == "given:CrossEntropyLoss"
    assert name_of(lambda: None) == "given:lambda"
    assert name_of(own()["model"]) == "given:network"


def test_a_mapping_a_recipe_and_a_config_give_the_same_values() -> None:
    expected = Config(optim=OptimConfig(lr=0.3, milestones=(0.2, 0.4)), data=DataConfig(root="x"))
    given: dict[str, Any] = {"optim": {"lr": 0.3}, "optim.milestones": [0.2, 0.4], "data.root": Path("x")}
    assert build(Config, values_of(given)) == expected
    assert build(Config, values_of(expected)) == expected
    assert values_of(expected) == values_of(given)  # no defaults: the launcher may set what is not given
    assert values_of("quickstart")["data"]["name"] == "digits"
    with pytest.raises(UserError, match=r"optim\.rate: there is no such field"):
        values_of({"optim.rate": 1})


def losses(**values: Any) -> Config:
    return Config(train=TrainConfig(**values))


def image_losses(logits: Tensor, targets: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, targets, reduction="none")
    return (1 - torch.exp(-loss)) * loss


def batch_norm_of_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Depends on the other images: a mean of its own for each shard."""
    loss = F.cross_entropy(logits, targets, reduction="none")
    return loss / loss.detach().mean()


@pytest.mark.parametrize("function", [focal, image_losses, batch_norm_of_loss])
def test_a_loss_of_several_shards_is_the_sum_of_theirs(function: Any) -> None:
    loss = group_loss(losses(loss=f"{__name__}:{function.__name__}"), torch.device("cpu"))
    logits, labels = torch.randn(12, 3), torch.arange(12) % 3

    def group(shards: int, rows: slice) -> ShardGroup:
        return ShardGroup(tuple(range(shards)), torch.empty(0), labels[rows], None, 0)

    whole = loss(logits, group(3, slice(None)))
    each = [loss(logits[shard::3], group(1, slice(shard, None, 3))) for shard in range(3)]
    assert whole == torch.stack(each).sum()
    usual = group_loss(losses(), torch.device("cpu"))(logits, group(3, slice(None)))
    assert usual == F.cross_entropy(logits, labels, reduction="sum")


def of_wrong_shape(logits: Tensor, targets: Tensor) -> Tensor:
    return logits


def without_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.detach().sum()


def drawing(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits * torch.rand(())).sum()


def drawing_seldom(logits: Tensor, targets: Tensor) -> Tensor:
    return F.dropout(focal(logits, targets), 1e-6)


def of_nan(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - 2).log().mean()


def failing(logits: Tensor, targets: Tensor) -> Tensor:
    raise ValueError("no loss today")


class Margin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.ones(()))


learned = Margin()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "of_wrong_shape",
            r"gave torch.float32 \[64, 4\] for 64 images; it must give the loss of each image",
        ),
        ("without_gradient", "gave a value without a gradient"),
        ("drawing", "draws random numbers, or gave two values for the same images"),
        ("drawing_seldom", "draws random numbers, or gave two values for the same images"),
        ("of_nan", "gave NaN for logits between -1 and 1"),
        ("failing", r"failed: ValueError: no loss today .*; it is called with logits"),
        ("learned", "has parameters to train"),
    ],
)
def test_a_loss_that_cannot_be_trained_with_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^train.loss: {__name__}:{name} {said}"):
        examine_loss(losses(loss=f"{__name__}:{name}"), 4, torch.device("cpu"))


def test_a_loss_module_of_the_caller_stays_where_it_is() -> None:
    module = nn.CrossEntropyLoss(weight=torch.ones(4))
    with passing({("train.loss", "given:CrossEntropyLoss"): module}):
        group_loss(losses(loss="given:CrossEntropyLoss"), torch.device("meta"))
    assert module.weight is not None
    assert module.weight.device == torch.device("cpu")
