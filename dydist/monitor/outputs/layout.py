"""Static parts of the TensorBoard log: the custom-scalar layout, the configuration, the hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

from dydist.text.display import plain

CHARTS: dict[str, dict[str, list[Any]]] = {
    "Learning": {
        "accuracy": ["Multiline", [r"accuracy/train", r"accuracy/(validation|test)(_ema)?$"]],
        "loss": ["Multiline", [r"loss/train", r"loss/(validation|test)(_ema)?$"]],
        "learning rate": ["Multiline", [r"schedule/(kernel_)?lr"]],
        "gradient and weight norm": ["Multiline", [r"optim/grad_norm", r"optim/weight_norm"]],
    },
    "Attention": {
        "entropy, every layer (0: one kernel, 1: all alike)": ["Multiline", [r"attention/.*/entropy"]],
        "temperature": ["Multiline", [r"schedule/temperature"]],
        "dead kernels": ["Multiline", [r"attention/dead_kernels"]],
        "similarity of the kernels": ["Multiline", [r"attention/.*/similarity"]],
    },
    "Speed": {
        "images per second": ["Multiline", [r"speed/images_per_s$"]],
        "step time": ["Multiline", [r"speed/step_s", r"speed/step_p50_s", r"speed/step_p95_s"]],
        "waiting": ["Multiline", [r"speed/data_wait_s", r"speed/collective_wait_s"]],
        "processes": ["Multiline", [r"ranks/busy_s/.*"]],
    },
}
"""Category → chart → kind and tags (regular expressions)."""


def charts() -> Summary:
    """The layout of the Custom Scalars tab."""
    return custom_scalars(CHARTS)


def configuration(yaml: str) -> Summary:
    """The configuration as a text summary; indented, so that Markdown shows it verbatim."""
    return text("config", "\n".join(f"    {line}" for line in plain(yaml, lines=True).split("\n")))


def hyper_parameters(values: Mapping[str, Any], *, split: str, done: bool = False) -> list[Summary]:
    """Summaries for the HParams tab: experiment and session at the start, success at the end (`done`).

    `split`: validation or test, on which the run is evaluated.
    """
    metrics = (f"accuracy/{split}", f"loss/{split}", "accuracy/train", "loss/train")
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in values.items()
        if value is not None and not name.startswith(("run.", "monitor.", "checkpoint."))
    }
    experiment, start, end = hparams(plain, dict.fromkeys(metrics, 0.0))
    return [end] if done else [experiment, start]
