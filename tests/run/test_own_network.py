"""A network that knows nothing of dydist as a run: the same bits on any number of processes, and its identity."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from dydist.checkpoint import load, open_storage, survey
from dydist.compare.two import all_tensors, compare_runs
from dydist.errors import UserError
from dydist.inference import load_trained
from helpers import networks
from helpers.support import train

PLAIN = "helpers.networks:plain"


def flags(runs: Path, name: str, *more: object) -> list[object]:
    """Two epochs of two steps and a small last one, on synthetic images in four shards."""
    return [
        *("--run.dir", runs, "--run.name", name, "--data.name", "synthetic", "--data.limit", "36"),
        *(
            "--data.drop_last",
            "false",
            "--train.epochs",
            "2",
            "--train.batch_size",
            "16",
            "--parallel.shards",
            "4",
        ),
        *(
            "--parallel.reduce",
            "exact",
            "--monitor.every_steps",
            "1",
            "--monitor.quiet",
            "true",
            "--optim.lr",
            "0.02",
        ),
        *("--train.eval_every_epochs", "2", "--model.factory", PLAIN, *more),
    ]


def test_one_and_two_processes_end_with_the_same_bits_and_the_network_is_part_of_the_run(
    tmp_path: Path,
) -> None:
    for world_size, name in ((1, "one"), (2, "two")):
        train(flags(tmp_path, name), world_size, tmp_path / "logs" / name)
    assert compare_runs(tmp_path / "one", tmp_path / "two").equal
    again = flags(tmp_path, "one", "--train.epochs", "3", "--model.options", "{width: 8}")
    told = train(again, 1, tmp_path / "logs" / "again", code=2)
    assert f"model.factory: {PLAIN} is not as it was when this run was started: other options" in told
    model = load_trained(str(tmp_path / "two"), open_storage, note=pytest.fail)
    assert type(model.network) is networks.Plain
    assert model.accuracy is not None
    # a checkpoint that is no longer in its run's folder may come from anybody
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "found")
    with pytest.raises(
        UserError, match=f"^model.factory: .* names {PLAIN} with .*; if you trust it, give --factory"
    ):
        load_trained(str(tmp_path / "found"), open_storage, note=pytest.fail)
    assert (
        load_trained(str(tmp_path / "found"), open_storage, factory=PLAIN, note=pytest.fail).step
        == model.step
    )


@pytest.mark.long
def test_an_edited_file_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(networks.__file__).read_text(encoding="utf-8")
    (tmp_path / "somebodys.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    given = ("--model.factory", "somebodys:plain", "--train.max_steps", "2")
    train(flags(tmp_path, "run", *given), 1, tmp_path / "logs" / "first")
    (tmp_path / "somebodys.py").write_text(f"{source}\n# another thought\n")
    told = train(
        flags(tmp_path, "run", *given, "--train.max_steps", "3"), 1, tmp_path / "logs" / "second", code=2
    )
    assert "other source; bring that back" in told
    said: list[str] = []
    load_trained(str(tmp_path / "run"), open_storage, note=said.append)
    assert "the file of somebodys:plain is not the one" in said[0]


def refused(kind: str) -> tuple[str, str]:
    return f"module 0.body.middle ({kind})", "parallel.reduce=exact cannot keep its promise"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Noise", "Moving"])
def test_exact_refuses_what_cannot_be_keyed_and_fast_warns(kind: str, tmp_path: Path) -> None:
    given = ("--model.factory", "helpers.networks:suspect", "--model.options", f"{{kind: {kind}}}")
    told = train(flags(tmp_path, "exact", *given), 1, tmp_path / "logs" / "exact", code=2)
    assert all(words in told for words in refused(kind))
    told = train(flags(tmp_path, "fast", *given, "--parallel.reduce", "fast"), 1, tmp_path / "logs" / "fast")
    assert "such values depend on the number of processes" in told


@pytest.mark.long
def test_a_run_starts_from_weights_and_goes_on_without_them(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(networks.plain(7, (3, 32, 32)).state_dict(), file)
    given = (
        "--model.weights",
        file,
        "--model.weights_classes",
        "any",
        "--optim.lr",
        "0",
        "--model.convert",
        "true",
    )
    train(flags(tmp_path, "run", *given, "--train.max_steps", "1"), 1, tmp_path / "logs" / "first")
    file.unlink()
    train(flags(tmp_path, "run", *given, "--train.max_steps", "2"), 2, tmp_path / "logs" / "second")
    place = open_storage(str(tmp_path / "run" / "checkpoints"))
    tensors = all_tensors(load(place, survey(place)[0]))
    assert tensors["conv2.weight"].shape[0] == 4  # kernels
    assert tensors["head.weight"].shape == (10, 16)


def move_to_own_folder() -> None:
    """In a training process: the working folder is its node's."""
    os.chdir(os.environ[f"DYDIST_TEST_NODE_{os.environ['RANK']}"])


@pytest.mark.parametrize(
    "classes", [None, pytest.param(9, marks=pytest.mark.long)], ids=["missing", "different"]
)
def test_weights_that_are_not_the_same_on_every_node(classes: int | None, tmp_path: Path) -> None:
    nodes = {f"DYDIST_TEST_NODE_{rank}": str(tmp_path / f"node{rank}") for rank in range(2)}
    for folder, number in zip(nodes.values(), (10, classes), strict=True):
        Path(folder).mkdir()
        if number is not None:
            save_file(networks.plain(number, (3, 32, 32)).state_dict(), f"{folder}/w.safetensors")
    arguments = flags(tmp_path, "run", "--model.weights", "w.safetensors", "--model.weights_classes", "any")
    told = train(arguments, 2, tmp_path / "log", code=2, before=move_to_own_folder, **nodes)
    words = (
        "cannot read w.safetensors" if classes is None else "process 1 reads other weights from w.safetensors"
    )
    assert words in told


@pytest.mark.long
@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("torchvision.models:resnet50", "{}"),
        ("torchvision.models:mobilenet_v2", "{dropout: 0.3}"),
        ("torchvision.models:convnext_tiny", "{stochastic_depth_prob: 0.3}"),
        (
            "torchvision.models:VisionTransformer",
            "{image_size: 32, patch_size: 8, num_layers: 2, num_heads: 3, hidden_dim: 48, mlp_dim: 64, dropout: 0.1,"
            " attention_dropout: 0.1}",
        ),
    ],
)
@pytest.mark.parametrize("more", [(), ("--train.precision", "bf16"), ("--model.convert", "true")])
def test_networks_of_torchvision(factory: str, options: str, more: tuple[str, ...], tmp_path: Path) -> None:
    if "true" in more and "Transformer" in factory:
        pytest.skip("it has one convolution")
    given = ("--model.factory", factory, "--model.options", options, *more, "--train.max_steps", "3")
    for world_size in (1, 3):
        train(flags(tmp_path, str(world_size), *given), world_size, tmp_path / "logs" / str(world_size))
    result = compare_runs(tmp_path / "1", tmp_path / "3")
    assert result.equal, result
