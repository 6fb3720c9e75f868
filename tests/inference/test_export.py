"""Exports compute what the original computes, on real images, in any batch size; what does not is not left behind."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dydist.cli.main import main
from dydist.config import Config, ModelConfig
from dydist.data.description import DataDescription
from dydist.errors import UserError
from dydist.inference import ExportError, PackagedNetwork, TrainedModel, export_trained
from dydist.inference.export import check
from dydist.inference.formats import FORMATS
from dydist.inference.formats import safetensors as safetensors_format
from dydist.models import build_model, set_temperature
from dydist.models.attention import Attention
from helpers.pages import blocks
from helpers.trained_run import STEPS


@pytest.fixture(scope="module")
def expected(model: TrainedModel, thousand: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        original = PackagedNetwork(model.network, model.data.mean, model.data.std)
        logits: np.ndarray = original(torch.from_numpy(thousand)).numpy()
    return logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "to", [pytest.param(each, marks=pytest.mark.long if each == "torch-export" else ()) for each in FORMATS]
)
def test_exports_agree_with_the_original_on_a_thousand_real_images(
    to: str,
    run_dir: Path,
    thousand: np.ndarray,
    expected: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / f"net{FORMATS[to].suffix}"
    assert main(["export", str(run_dir), "--to", to, "--output", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["largest_difference_of_a_logit"] < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [file.name, f"{file.name}.json", f"{file.name}.md"]
    )
    # the card's own lines load and run it, in a batch of every image
    card = json.loads((tmp_path / f"{file.name}.json").read_text())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"images": thousand}
    exec(card["load"], names)
    logits = np.asarray(names["logits"])
    assert np.abs(logits - expected).max() < 1e-4
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert len(set(logits.argmax(1).tolist())) > 2, "a network that says one thing shows nothing"
    run = FORMATS[to].open(file)
    for batch in (1, 2, 3, 97):
        assert np.abs(run(thousand[:batch]) - expected[:batch]).max() < 1e-4
    if to == "onnx":  # the page's lines
        (shown,) = [block.text for block in blocks("docs/inference.md") if block.language == "python"]
        file.rename("cifar10.onnx")
        exec(shown, names)
        assert np.shape(names["logits"]) == (7, 10)
    told = (tmp_path / f"{file.name}.md").read_text()
    assert card["load"] in told
    assert card["step"] == STEPS
    assert card["classes"][3] == "cat"
    assert f"| parameters | {card['parameters']:,} |" in told


OPTIONS = {
    "attention": "l1",
    "attention_norm": "batch",
    "attention_min_hidden": 16,
    "channel_attention": True,
    "dynamic": "layer[34].*",
}


@pytest.mark.parametrize(
    ("to", "values"),
    [
        pytest.param("onnx", {"attention": "sigmoid"}, marks=pytest.mark.long),
        pytest.param("onnx", OPTIONS, marks=pytest.mark.long),
        pytest.param("torch-export", OPTIONS, marks=pytest.mark.long),
        ("safetensors", OPTIONS),
    ],
)
def test_other_networks_too(to: str, values: dict[str, object], tmp_path: Path) -> None:
    """The ImageNet stem, other attention, biases, three kernels, a dozen classes; untrained weights."""
    config = Config(model=ModelConfig(width=0.0625, stem="imagenet", bias=True, kernels=3, **values))  # type: ignore[arg-type]
    network = build_model(config.model, 12).eval()
    for part in network.modules():
        if isinstance(part, Attention):  # attention that depends on the image
            for head in (part.fc2, part.fc_in, part.fc_out):
                if head is not None:
                    torch.nn.init.normal_(head.weight, std=0.1)
    set_temperature(network, 2.5)
    described = DataDescription(
        train_images=1000,
        side=32,
        classes=tuple(map(str, range(12))),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.25),
    )
    model = TrainedModel(
        network=network, config=config, data=described, step=1, url="nowhere", averaged=False, temperature=2.5,
        accuracy=None, test_accuracy=None, environment={},
    )  # fmt: skip
    written = export_trained(model, to, tmp_path / f"net{FORMATS[to].suffix}")
    assert written.difference < 1e-4
    told = written.card_markdown.read_text()
    assert all(f"| `model.{name}` | {value} |" in told.replace("\\", "") for name, value in values.items())
    assert ("each convolution layer[34].* mixes 3 kernels" in told) == ("dynamic" in values)
    assert ("scales its input and output channels" in told) == ("channel_attention" in values)


def test_an_export_that_differs_is_refused_and_removed(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(original: TrainedModel, path: Path) -> None:
        other = original.with_strategy("mix")
        with torch.no_grad():
            other.network.fc.bias[7] += 2e-4
        safetensors_format.write(other, path)

    broken = replace(FORMATS["safetensors"], write=spoil)
    monkeypatch.setitem(FORMATS, "safetensors", broken)
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"an older export")
    with pytest.raises(ExportError, match=r"batches of 1 the export differs from the original by 0\.0002"):
        export_trained(model, "safetensors", file)
    assert file.read_bytes() == b"an older export"
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_every_batch_size_of_the_check_counts(model: TrainedModel) -> None:
    original = PackagedNetwork(model.network, model.data.mean, model.data.std)

    known: dict[bytes, np.ndarray] = {}

    def run(images: np.ndarray) -> np.ndarray:
        key = images.tobytes()
        if key not in known:
            known[key] = original(torch.from_numpy(images)).numpy()
        return known[key]

    assert check(model, run) < 1e-5
    for size in (1, 7, 64):
        with pytest.raises(ExportError, match=f"batches of {size}"):
            check(model, lambda images, size=size: run(images) + (len(images) == size))  # type: ignore[misc]
    with pytest.raises(ExportError, match="shape"):
        check(model, lambda images: run(images)[:, :5])
    with pytest.raises(ExportError, match="nan"):
        check(model, lambda images: run(images) * np.float32("nan"))


def test_large_logits_may_differ_by_what_rounding_explains(model: TrainedModel) -> None:
    """A network after a few steps may have logits of 100,000, of which float32 has two decimals."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.fc.bias[3] = 1e5
    large = replace(model, network=network)
    original = PackagedNetwork(network, model.data.mean, model.data.std)

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = original(torch.from_numpy(images)).numpy()
        return logits

    assert check(large, lambda images: run(images) + np.float32(0.125)) > 0.1
    with pytest.raises(ExportError, match="allowed are 1;"):
        check(large, lambda images: run(images) + np.float32(1.5))


def test_the_card_says_what_the_run_logged(
    run_dir: Path, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run_dir), "--to", "safetensors", "--ema"]) == 0
    (file,) = tmp_path.glob("*.safetensors")
    assert file.name == f"tiny-step-{STEPS:09d}-ema.safetensors"
    card = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert card["averaged_weights"] is True
    assert card["test_accuracy"] is None, "the log's figure is the better of weights and average"
    assert card["configuration"]["model"]["width"] == 0.0625
    assert "host" not in card["trained_with"]
    for private in (run_dir, model.config.data.root):
        assert str(private) not in json.dumps(card)
    logged = export_trained(replace(model, test_accuracy=0.25), "safetensors", tmp_path / "a.safetensors")
    assert "| test accuracy | 25.00 % |" in logged.card_markdown.read_text()


def test_where_it_cannot_be_written_is_said(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="--output: cannot write"):
        export_trained(model, "safetensors", tmp_path / "file" / "net.safetensors")
