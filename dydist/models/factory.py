"""The user's own network: `model.factory` names the function that creates it.

The network keeps its class, its names and its parameters. Batch norms take their statistics by shard (`batchnorm`), and
with `model.convert` its convolutions become dynamic (`convert`). Masks that it draws are keyed by the engine (`draws`).
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from dydist.config import ModelConfig
from dydist.data.torchvision_shim import declare_operators
from dydist.errors import UserError
from dydist.models.batchnorm import batch_norm_by_shard
from dydist.models.convert import convert_to_dynamic
from dydist.models.dynamic_conv import dynamic_options
from dydist.user_function import describe_error, is_of_script, load_function


def build_network(
    config: ModelConfig,
    num_classes: int,
    image_shape: Sequence[int],
    *,
    before_conversion: Callable[[nn.Module], None] = lambda network: None,
) -> nn.Module:
    """The network of `model.factory` for images [N, C, H, W] of `image_shape` [C, H, W], with its first weights.

    `before_conversion(network)` may change the network's weights before its convolutions become dynamic.

    Random numbers come from torch's default generator, and those of numpy and Python are seeded with its seed. Raises
    UserError if the factory cannot be called with `model.options`, fails, or does not return an nn.Module.
    """
    factory = load_factory(config)
    arguments, keywords = _call(factory, config, num_classes, image_shape)
    with _numpy_and_python_seeded():
        try:
            network = factory(*arguments, **keywords)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"model.factory: {config.factory} failed: {describe_error(error)}") from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model.factory: {config.factory} returned a {type(network).__name__}; it must return a torch.nn.Module"
        )
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        raise UserError(
            f"model.factory: {config.factory} returned a network whose lazy layers have no weights yet; call it once "
            "in the factory, on zeros of the images' shape"
        )
    before_conversion(network)
    if config.convert:
        network = convert_to_dynamic(
            network,
            spread=0.1 if config.spread is None else config.spread,
            predicate=None if config.dynamic == "*" else lambda name, _: fnmatchcase(name, config.dynamic),
            **dynamic_options(config),
        )
    return batch_norm_by_shard(network)


def load_factory(config: ModelConfig) -> Callable[..., Any]:
    """The function that `model.factory` names. Raises UserError if there is none."""
    assert config.factory is not None
    declare_operators()  # timm and many networks import torchvision
    found = load_function("model.factory", config.factory)
    return (lambda: deepcopy(found)) if isinstance(found, nn.Module) else found


def source_hash(config: ModelConfig) -> str | None:
    """SHA-256 of the factory's source file; None if it has none, is part of the running script, or is not given."""
    if config.factory is None or is_of_script("model.factory", config.factory):
        return None
    try:
        file = inspect.getsourcefile(inspect.unwrap(load_factory(config)))
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def _call(
    factory: Callable[..., Any], config: ModelConfig, num_classes: int, image_shape: Sequence[int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the call: `num_classes` and `image_shape` by name if `factory` has these names, else in order.

    In order, the shape is only given to an argument without a default.
    """
    shape = tuple(image_shape)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C
        return (num_classes, shape), dict(config.options)
    known = signature.parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    arguments: tuple[Any, ...] = ()
    keywords = dict(config.options)
    if "num_classes" in known or takes_any:
        keywords.setdefault("num_classes", num_classes)
        if "image_shape" in known:
            keywords.setdefault("image_shape", shape)
    else:
        places = [
            one for one in known.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        free = [one for one in places if one.name not in keywords]
        # the shape is for a second argument that needs one, not for torchvision's `weights=None`
        takes_shape = len(free) > 1 and (free[1].default is free[1].empty or free[1].name == "image_shape")
        arguments = (num_classes, shape)[: min(len(free), 1 + takes_shape)]
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise UserError(
            f"model.options: {config.factory}{signature} cannot be called with the number of classes, the shape "
            f"of images and {config.options}: {error}"
        ) from error
    return arguments, keywords


class _numpy_and_python_seeded:  # noqa: N801 - reads as a function
    """Within, numpy's and Python's shared generators are seeded from torch's."""

    def __enter__(self) -> None:
        self._kept = random.getstate(), np.random.get_state()
        seed = int(torch.initial_seed())
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._kept[0])
        np.random.set_state(self._kept[1])
