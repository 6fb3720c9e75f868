"""Examines a user's network in one forward and backward pass: outputs, random draws, buffers, unused parameters.

A network trains to the same bits on any number of processes if a pass depends only on the weights, the images and
(seed, step, shard). Anything that violates this is found here and reported with the name of its module.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from dydist.errors import UserError
from dydist.models.batchnorm import attach_statistics
from dydist.models.draws import KEYED
from dydist.user_function import describe_error

IMAGES = 2


@dataclass(frozen=True)
class Examined:
    """`draws`: whether it draws masks, which are keyed. `unkeyed`: sentences on draws that cannot be keyed. `changing`:
    sentences on buffers that a forward pass changes. `unused`: parameters that get no gradient. `by_batch`: sentences
    on modules whose results in evaluation depend on the batch.
    """

    draws: bool
    unkeyed: tuple[str, ...]
    changing: tuple[str, ...]
    unused: tuple[str, ...]
    by_batch: tuple[str, ...] = ()


def examine(network: nn.Module, classes: int, image_shape: Sequence[int], who: str) -> Examined:
    """Run `network` on two images of `image_shape` [C, H, W]: forward and backward in training, then in evaluation.

    Its weights, buffers, gradients and modes are left as they were, and so are torch's, numpy's and Python's shared
    generators. Raises UserError, which begins with `who`, if it fails, does not return logits float [2, `classes`],
    or adds or removes parameters or buffers in a forward pass.
    """
    size = (IMAGES, *image_shape)
    images = torch.linspace(-1, 1, torch.Size(size).numel()).view(size)
    watch, statistics = _Watch(network), attach_statistics(network, "cpu")
    modes = {part: part.training for part in network.modules()}
    kept = {
        part: {n: None if b is None else (b, b.clone()) for n, b in part._buffers.items()} for part in modes
    }
    names = list(network.state_dict())
    with _generators_kept():
        try:
            with watch:
                logits = _logits(network.train(), images, classes, who)
                watch.phase = "backward"
                logits.square().sum().backward()
            unused = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
            changing = list(_changed(network, kept))
            if new := sorted(set(network.state_dict()) ^ set(names)):
                raise UserError(
                    f"{who} gets or loses {new[0]} in a forward pass, so that no checkpoint would fit it; register it "
                    "in its __init__, or as a buffer with persistent=False"
                )
            watch.phase = "evaluation"
            with watch, torch.no_grad():
                _logits(network.eval(), images, classes, who)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{who} cannot train on images of {_shown(size)}: {describe_error(error)}"
            ) from error
        finally:
            statistics.detach()
            network.zero_grad(set_to_none=True)
            with torch.no_grad():
                for part, buffers in kept.items():
                    part._buffers.clear()
                    for name, both in buffers.items():
                        part._buffers[name] = both and both[0].copy_(both[1])
            for part, training in modes.items():
                part.training = training
    by_batch = [
        f"{_place(name, part)} keeps no running statistics, so that in evaluation a result depends on the other images "
        "of its batch"
        for name, part in network.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is None
    ]
    return Examined(
        watch.keyed > 0, tuple(watch.unkeyed), tuple(changing), tuple(unused), by_batch=tuple(by_batch)
    )


def _logits(network: nn.Module, images: Tensor, classes: int, who: str) -> Tensor:
    mode = "training" if network.training else "evaluation"
    try:
        logits = network(images)
    except Exception as error:
        raise UserError(
            f"{who} cannot take images of {_shown(images.shape)}{' in evaluation' * (not network.training)}: "
            f"{describe_error(error)}"
        ) from error
    if not isinstance(logits, Tensor):
        raise UserError(
            f"{who} gives a {type(logits).__name__} in {mode}; it must give one tensor of logits [images, classes]: "
            "take them out of it in the network's forward"
        )
    if logits.shape != (len(images), classes) or not logits.is_floating_point():
        raise UserError(
            f"{who} gives {logits.dtype} of {_shown(logits.shape)} for {len(images)} images; it must give "
            f"floating-point logits of {_shown((len(images), classes))}, one for each class"
        )
    return logits


class _Watch(TorchDispatchMode):
    """Notes the operators that draw random numbers, and the modules in whose forward they are called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keyed = 0
        self.unkeyed: list[str] = []
        self.phase: Literal["forward", "backward", "evaluation"] = "forward"
        self._network = network
        self._inside: list[str] = []
        self._hooks = ExitStack()
        self._states = _others()

    def __enter__(self) -> _Watch:
        for name, part in self._network.named_modules():
            before, after = self._entering(name, part), self._leaving()
            self._hooks.callback(part.register_forward_pre_hook(before).remove)
            self._hooks.callback(part.register_forward_hook(after, always_call=True).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            name = func.overloadpacket.__name__
            if kwargs.get("generator") is not None:
                self._tell(f"draws by torch's {name} from a generator of its own")
            elif _drops_nothing(func, args, kwargs):
                pass
            elif func not in KEYED or self.phase == "evaluation":
                self._tell(f"draws by torch's {name}")
            elif self.phase == "backward":
                self._tell("draws its masks again in the backward pass, as activation checkpointing does")
            else:
                self.keyed += 1
        return func(*args, **kwargs)

    def _entering(self, name: str, part: nn.Module) -> Callable[..., None]:
        text = _place(name, part)

        def enter(_module: nn.Module, _inputs: Any) -> None:
            self._note_others()
            self._inside.append(text)

        return enter

    def _leaving(self) -> Callable[..., None]:
        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            self._note_others()
            self._inside.pop()

        return leave

    def _note_others(self) -> None:
        for name, state in _others().items():
            if state != self._states[name]:
                self._states[name] = state
                self._tell(f"draws by {name}")

    def _tell(self, what: str) -> None:
        text = f"{self._inside[-1] if self._inside else 'the network'} {what}"
        if text not in self.unkeyed:  # a module that also draws in training is reported once
            self.unkeyed.append(f"{text} in evaluation" if self.phase == "evaluation" else text)


def _drops_nothing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `func` is a fused attention without dropout, which torch's tag wrongly describes as random."""
    for place, one in enumerate(func._schema.arguments):
        if one.name == "dropout_p":
            given = args[place] if place < len(args) else kwargs.get("dropout_p", one.default_value)
            return bool(given == 0)
    return False


def _others() -> dict[str, Any]:
    """The states of the global random generators of Python and numpy."""
    _, numbers, *position = cast("tuple[Any, ...]", np.random.get_state())
    return {"Python's random": random.getstate(), "numpy.random": (bytes(numbers.data), *position)}


@contextmanager
def _generators_kept() -> Iterator[None]:
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def _changed(
    network: nn.Module, before: Mapping[nn.Module, Mapping[str, tuple[Tensor, Tensor] | None]]
) -> Iterator[str]:
    """A sentence for each module with a buffer that the pass changed; batch norm by shard changes none."""
    for where, part in network.named_modules():
        for name, both in before.get(part, {}).items():
            now = part._buffers.get(name)
            if both is not None and (now is None or not torch.equal(now.nan_to_num(), both[1].nan_to_num())):
                yield f"{_place(where, part)} changes its buffer {name} in a forward pass"
                break


def _place(name: str, part: nn.Module) -> str:
    return f"module {name} ({type(part).__name__})" if name else f"the network ({type(part).__name__})"


def _shown(size: Sequence[int]) -> str:
    return "×".join(map(str, size)) or "a single number"
