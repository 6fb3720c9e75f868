"""The model card of an exported file: network, training data, accuracy, and use."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dydist import __version__
from dydist.config import Config
from dydist.config.data_sets import data_set
from dydist.config.reader import flatten, to_dict
from dydist.inference.formats import FORMATS
from dydist.inference.trained import TrainedModel
from dydist.models.cost import network_cost
from dydist.text.display import code, markdown, plain

CODE_NOTE = "dydist itself is under the Apache License 2.0, which does not decide about weights."


def model_card(
    model: TrainedModel, *, file: str, format: str, bytes: int, check: dict[str, Any]
) -> dict[str, Any]:
    """The model card as plain values. `check`: how the file was checked, and the result."""
    config, data = model.config, model.data
    cost = network_cost(model.network, data.side)
    kind = config.model.factory or ("DY-ResNet18" if config.model.kind == "dynamic" else "ResNet-18")
    return {
        "name": f"{kind} on {config.data.name}",
        "file": file,
        "format": format,
        "bytes": bytes,
        "what": what(model, kind),
        "run": config.run.name,
        "step": model.step,
        "averaged_weights": model.averaged,
        "split": config.data.evaluated_split,
        "accuracy": model.accuracy,
        "test_accuracy": model.test_accuracy,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", 3, data.side, data.side],
            "meaning": "RGB, 0 to 255, as in an image file; normalised inside",
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["batch", len(data.classes)],
            "meaning": "softmax gives probabilities, in the order of `classes`",
        },
        "classes": list(data.classes),
        "temperature": model.temperature,
        "normalisation": {"mean": list(data.mean), "std": list(data.std)},
        "data": {"name": config.data.name, "training_images": data.train_images},
        "load": FORMATS[format].load.format(file=_python_text(file)),
        "check": check,
        "configuration": _recipe(config),
        "trained_with": {name: value for name, value in model.environment.items() if name != "host"},
        "exported_with": exporter_versions(format),
        "licence": f"{CODE_NOTE} {data_set(config.data.name).note}",
    }


def _recipe(config: Config) -> dict[str, Any]:
    """The fields that affect the result, without local paths."""
    values = to_dict(config)
    for name in ("run", "checkpoint", "monitor"):
        del values[name]
    for name in ("root", "download", "options"):
        del values["data"][name]
    return values


def what(model: TrainedModel, kind: str) -> str:
    """One sentence about the network."""
    config = model.config.model
    if config.factory is not None:
        dynamic = f", with dynamic convolutions of {config.kernels} kernels" if config.convert else ""
        return f"{kind} with {config.options or 'no options'}{dynamic}."
    if config.kind == "static":
        return f"{kind} with a {config.stem} stem and {config.width:g} times its width."
    which = (
        "every convolution but the stem" if config.dynamic == "*" else f"each convolution {config.dynamic}"
    )
    scales = (
        ", and scales its input and output channels (arXiv:2209.07947)" if config.channel_attention else ""
    )
    return (
        f"{kind} with a {config.stem} stem and {config.width:g} times its width: {which} mixes "
        f"{config.kernels} kernels for each image by {config.attention} attention at temperature {model.temperature:g} "
        f"(Chen et al., Dynamic Convolution, CVPR 2020, arXiv:1912.03458){scales}."
    )


def exporter_versions(format: str) -> dict[str, str]:
    """Versions of the packages that wrote and checked the file."""
    found = {"dydist": __version__, "python": platform.python_version()}
    for package in ("torch", *FORMATS[format].packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_markdown(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    unknown = "not logged for these weights; `dydist evaluate` measures it"
    logged = {f"{card['split']} accuracy": card["accuracy"], "test accuracy": card["test_accuracy"]}
    accuracies = {
        name: unknown if accuracy is None else f"{100 * accuracy:.2f} %" for name, accuracy in logged.items()
    }
    weights = "moving average of the weights" if card["averaged_weights"] else "weights"
    rows = {
        "file": f"{code(card['file'])} ({card['format']}, {card['bytes']:,} bytes)",
        **accuracies,
        "data": f"{markdown(card['data']['name'])}, {card['data']['training_images']:,} training images",
        "parameters": f"{card['parameters']:,}",
        "multiply-adds of one image": f"{card['multiply_adds']:,}",
        "from": f"{weights} of run {code(card['run'])} after step {card['step']}",
        "input": _tensor(card["input"]),
        "output": _tensor(card["output"]),
        "checked": f"{card['check']['images']} images in batches of {', '.join(map(str, card['check']['batches']))}: "
        f"logits differ from the original by at most {card['check']['largest_difference_of_a_logit']:.2g}",
        "exported with": ", ".join(
            markdown(f"{name} {number}") for name, number in card["exported_with"].items()
        ),
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    settings = "\n".join(
        f"| {code(name)} | {markdown(value)} |" for name, value in flatten(card["configuration"]).items()
    )
    return f"""# {card["name"]}

{card["what"]}

| | |
| --- | --- |
{table}

## Use

`images`: a numpy array, uint8 [{_shape(card["input"])}], any batch size.

```python
{card["load"]}
```

Classes, in order: {", ".join(map(markdown, card["classes"]))}.

## Licence

{card["licence"]}

## Configuration

| field | value |
| --- | --- |
{settings}
"""


def _python_text(text: str) -> str:
    """A Python string literal in double quotes, with invisible characters escaped."""
    return json.dumps(plain(text), ensure_ascii=False)


def _tensor(spec: dict[str, Any]) -> str:
    return f"`{spec['name']}`, {spec['dtype']} [{_shape(spec)}]: {spec['meaning']}"


def _shape(spec: dict[str, Any]) -> str:
    return ", ".join(map(str, spec["shape"]))
