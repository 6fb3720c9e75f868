"""`model.factory`: how it is called, what it may return, batch norm, conversion and first weights."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dydist.config import ModelConfig
from dydist.errors import FailedError, UserError
from dydist.models import DynamicConv2d, attach_statistics, build_model
from dydist.models.batchnorm import ShardBatchNorm, batch_norm_by_shard
from dydist.models.factory import source_hash
from dydist.models.pretrained import hash_of, load_weights, read_weights
from helpers import networks

PLAIN = "helpers.networks:plain"


def make(factory: str = PLAIN, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(factory=factory, **values), 10, (3, 32, 32))


def test_the_network_is_the_factorys_with_batch_norm_by_shard() -> None:
    network = make(options={"width": 6})
    torch.manual_seed(0)
    expected = networks.plain(10, (3, 32, 32), width=6)
    assert type(network) is networks.Plain
    assert list(network.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), expected.parameters(), strict=True))
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    assert len(norms) == 3
    assert all(isinstance(part, ShardBatchNorm) for part in norms)
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in norms)  # DDP refuses those on a CPU
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.eval()(x), expected.eval()(x))


def test_its_convolutions_become_dynamic() -> None:
    network = make(convert=True, kernels=3)
    assert isinstance(network.conv2, DynamicConv2d)
    assert network.conv2.kernels == 3
    assert type(network.conv1) is nn.Conv2d


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("torchvision.models:resnet18", {}),  # takes **kwargs alone
        ("torchvision.models:vit_b_16", {"image_size": 32}),
        ("helpers.networks:suspect", {"kind": "Noise"}),  # takes num_classes alone
        (
            "helpers.networks:Plain",
            {"width": 4, "dropout": 0.1},
        ),  # a class, whose first argument has another name
    ],
)
def test_it_is_called_as_it_can_be(factory: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = make(factory, options=options)
    assert list(network.parameters())[-1].shape == (10,)


def with_a_default(classes: int, bias: bool = True) -> nn.Module:
    """Its second argument is not for the shape of images."""
    assert bias is True
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes, bias=bias))


def test_the_shape_is_not_given_to_an_argument_with_a_default() -> None:
    assert make(f"{__name__}:with_a_default")(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("nope:make", {}, "nope:make: there is no module nope; put its folder on PYTHONPATH"),
        ("helpers.networks:nope", {}, "helpers.networks has no nope"),
        ("helpers.networks:SUSPECTS", {}, "is a dict; it must be a function"),
        ("helpers.networks:Plain.forward", {}, "failed: AttributeError"),
        ("builtins:max", {}, "max returned a"),
        ("helpers.networks:suspect", {"kind": "x"}, r"failed: KeyError: 'x' \(.*networks.py, line"),
        (
            PLAIN,
            {"depth": 3},
            "model.options: .* cannot be called with .*unexpected keyword argument 'depth'",
        ),
        ("torch.nn:LazyConv2d", {"stride": 1}, "lazy layers have no weights yet"),
    ],
)
def test_a_factory_that_is_none(factory: str, options: dict[str, Any], words: str) -> None:
    if factory == "builtins:max":
        options = {"key": str}
    with pytest.raises(UserError, match=words):
        make(factory, options=options)


def test_the_file_of_a_factory_is_known_by_its_bytes() -> None:
    assert source_hash(ModelConfig()) is None
    assert len(source_hash(ModelConfig(factory=PLAIN)) or "") == 64
    assert source_hash(ModelConfig(factory="math:sin")) is None


class ActivatedBatchNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a forward of its own around F.batch_norm."""

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return out.relu()


def test_somebodys_batch_norm_takes_its_statistics_by_shard_too() -> None:
    parts = [torch.randn(3, 5, 4, 4) for _ in range(2)]
    plain, own = batch_norm_by_shard(nn.BatchNorm2d(5)), batch_norm_by_shard(ActivatedBatchNorm(5))
    outputs, sums = [], []
    for layer in (plain, own):
        statistics = attach_statistics(layer, "cpu")
        statistics.set_shards(2)
        outputs.append(layer(torch.stack(parts, 1).flatten(0, 1)))
        sums.append(statistics.flat.clone())
        assert torch.equal(layer.running_mean, torch.zeros(5))  # type: ignore[arg-type]
    torch.testing.assert_close(outputs[1], outputs[0].relu())
    torch.testing.assert_close(sums[1], sums[0])
    with pytest.raises(UserError, match=r"^parallel.shards: a ActivatedBatchNorm gets one value per channel"):
        own(torch.randn(2, 5, 1, 1))
    torch.testing.assert_close(own.eval()(parts[0]), plain.eval()(parts[0]).relu())


def test_weights_of_a_file(tmp_path: Path) -> None:
    source = networks.plain(7, (3, 32, 32))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(factory=PLAIN, weights=str(tmp_path / "w.safetensors"), weights_classes="any")
    network = make()
    head = network.head.weight.clone()  # type: ignore[union-attr, operator]
    weights = read_weights(config.weights or "", {})
    assert load_weights(network, weights, config, 10) == ("head.weight", "head.bias")
    assert torch.equal(network.conv1.weight, source.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert torch.equal(network.head.weight, head)  # type: ignore[arg-type, union-attr]
    strict = ModelConfig(factory=PLAIN, weights=config.weights)
    with pytest.raises(
        UserError, match=r"2 of another shape \(head.weight \(7, 16\), here \(10, 16\).*weights_classes=any"
    ):
        load_weights(network, weights, strict, 10)
    with pytest.raises(UserError, match=r"1 missing \(conv1.bias\); 1 not in the network \(conv1.b\)"):
        load_weights(network, {"conv1.b": weights.pop("conv1.bias"), **weights}, config, 10)


@pytest.mark.parametrize("name", ["no.safetensors", "text.safetensors"])
def test_weights_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match=r"^model.weights: .*safetensors"):
        read_weights(str(tmp_path / name), {})


class Cut(http.server.SimpleHTTPRequestHandler):
    """Serves files; ends the connection half-way through what is called `cut`; is busy once for each `busy`."""

    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        if "busy" in self.path and self.path not in self.asked:
            self.asked.add(self.path)
            self.send_error(503)
        else:
            super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "cut" in self.path else content)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


def test_weights_of_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    weights = networks.plain(10, (3, 32, 32)).state_dict()
    for name in ("whole", "cut", "busy"):
        save_file(weights, tmp_path / f"{name}.safetensors")
    handler = functools.partial(Cut, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{web.server_address[1]}"
            found, later = (read_weights(f"{url}/{name}.safetensors", {}) for name in ("whole", "busy"))
            with pytest.raises(
                UserError, match=r"^model.weights: cannot read .*/none.*404.*without credentials"
            ):
                read_weights(f"{url}/none.safetensors", {})
            monkeypatch.setattr("dydist.models.pretrained.PATIENCE_S", 0)
            with pytest.raises(
                FailedError, match=r"^model.weights: .*/cut.* could not be read .*IncompleteRead"
            ):
                read_weights(f"{url}/cut.safetensors", {})
        finally:
            web.shutdown()
            thread.join()
    assert hash_of(found) == hash_of(later) == hash_of(weights)


def test_a_url_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(UserError, match=r"^model.weights: cannot read s3://b/w.safetensors \(.*redentials"):
        read_weights("s3://b/w.safetensors", options)
