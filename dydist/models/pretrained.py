"""Weights that a run starts from: `model.weights`, a safetensors file at a path, a URL of a store, or http(s)://."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from dydist.config import ModelConfig
from dydist.errors import FailedError, UserError
from dydist.storage.opening import open_storage
from dydist.storage.transient import is_transient
from dydist.text.redaction import scrub

TIMEOUT_S = 60
"""Seconds without data from a web server before giving up."""
PATIENCE_S = 60
"""Seconds after which a failed read is not tried again."""
SHOWN = 3
"""Number of names of each kind in a message."""


def read_weights(place: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises UserError if it cannot be read or is not such a file.

    Transient errors are retried; raises FailedError if they last. `options`: of the storage, as in
    `checkpoint.storage_options`.
    """
    web = place.startswith(("http://", "https://"))
    try:
        return load(_patiently(lambda: _downloaded(place) if web else _stored(place, options)))
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"model.weights: {scrub(place)} is not a safetensors file ({error}); write one with "
            "safetensors.torch.save_file(network.state_dict(), PATH)"
        ) from error
    except Exception as error:  # of many libraries, such as botocore's NoCredentialsError
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        why = scrub(" ".join(why.split()))
        if _is_transient(error):
            problem = f"model.weights: {scrub(place)} could not be read in {PATIENCE_S} s ({why}); start again later"
            raise FailedError(problem) from error
        remedy = (
            "an https:// URL is read without credentials"
            if web
            else "or its URL with credentials in checkpoint.storage_options"
        )
        raise UserError(
            f"model.weights: cannot read {scrub(place)} ({why}); give the path of a safetensors file; {remedy}"
        ) from error


def _patiently(read: Callable[[], bytes]) -> bytes:
    import tenacity

    from dydist.storage.retry import FIRST_WAIT_S, LONGEST_WAIT_S

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        stop=tenacity.stop_after_delay(PATIENCE_S),
        reraise=True,
    )
    return retrying(read)


def _is_transient(error: BaseException) -> bool:
    from http.client import IncompleteRead

    return isinstance(error, IncompleteRead) or is_transient(error)


def _stored(place: str, options: Mapping[str, Any]) -> bytes:
    folder, _, name = place.rpartition("/")
    folder = folder or ("/" if place.startswith("/") else ".")
    return b"".join(open_storage(folder, options, field="model.weights").read(name))


def _downloaded(url: str) -> bytes:
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:  # what is cut short raises IncompleteRead
            content: bytes = answer.read()
    except HTTPError as error:
        error.close()
        raise
    except URLError as error:
        if not isinstance(error.reason, OSError):
            raise
        raise error.reason from None  # which tells whether it is transient
    return content


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], config: ModelConfig, num_classes: int
) -> tuple[str, ...]:
    """Load `weights` into `network`; returns the names of those left as they were.

    Names and shapes must be the network's. With `model.weights_classes` any, a tensor is left out if only its first
    dimension differs, and is `num_classes` here: the classifier's. Raises UserError, which names what differs.
    """
    own = network.state_dict()
    left = classifier_of_others(own, weights, num_classes) if config.weights_classes == "any" else ()
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)}, here {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape and name not in left
    ]
    found = {"missing": missing, "not in the network": extra, "of another shape": shapes}
    if problems := [f"{len(names)} {what} ({_some(names)})" for what, names in found.items() if names]:
        heads = classifier_of_others(own, weights, num_classes)
        hint = (
            ", or set model.weights_classes=any for another number of classes" if heads and not left else ""
        )
        raise UserError(
            f"model.weights: {scrub(config.weights or '')} does not fit the network: {'; '.join(problems)}; give "
            f"weights with the names and shapes of its state_dict{hint}"
        )
    network.load_state_dict({**weights, **{name: own[name] for name in left}})
    return tuple(left)


def classifier_of_others(
    own: Mapping[str, Tensor], other: Mapping[str, Tensor], num_classes: int
) -> list[str]:
    """Names of tensors in which `other` has another number of classes: all but the first dimension agree."""
    return [
        name
        for name, tensor in own.items()
        if name in other
        and tensor.ndim > 0
        and tensor.shape != other[name].shape
        and tensor.shape[0] == num_classes
        and tensor.shape[1:] == other[name].shape[1:]
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
