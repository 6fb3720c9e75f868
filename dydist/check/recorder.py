"""Records what one process computes: digests of the state, of modules' outputs and of parameters' gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dydist.check.difference import Entry, Kind, Record
from dydist.compare.two import bits_of
from dydist.data.loader import ShardGroup, StepBatch
from dydist.engine import Engine
from dydist.engine.core import TorchEngine
from dydist.engine.protocol import StepSums, Votes


class StoppedEngine:
    """An engine that votes to stop after `stop_after` finished steps."""

    def __init__(self, engine: Engine, stop_after: int | None) -> None:
        self._engine, self._stop_after = engine, stop_after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """See `Engine.train_step`."""
        stop = votes.stop or batch.step + 1 == self._stop_after
        return self._engine.train_step(batch, lr=lr, temperature=temperature, votes=replace(votes, stop=stop))


class RecordedEngine(StoppedEngine):
    """An engine that computes each shard in a pass of its own, and whose computation is recorded.

    A compiled network's modules have no outputs of their own: only its logits are recorded, then.
    """

    def __init__(self, engine: TorchEngine, stop_after: int | None) -> None:
        super().__init__(engine, stop_after)
        self._torch = engine
        self._entries: list[Entry] = []
        self._step, self._shard = 0, -1
        self._forward, self._started = False, False
        model = engine.model
        self._classes = {name: type(part).__name__ for name, part in model.named_modules()}
        self._compiled = engine.config.train.compile or any(map(_is_compiled, model.modules()))
        if not self._compiled:
            for name, part in model.named_modules():
                part.register_forward_hook(self._output_of(name))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._gradient_of(name))
        self._inner, engine.forward = engine.forward, self._pass

    @property
    def record(self) -> Record:
        """What was recorded up to now."""
        return Record(self._entries, self._classes)

    def train_step(
        self, batch: StepBatch, *, lr: float, temperature: float, votes: Votes
    ) -> Callable[[], StepSums]:
        """See `Engine.train_step`."""
        if not self._started:
            self._step, self._started = batch.step, True
            self._note_state("start")
        self._step = batch.step + 1
        sums = super().train_step(batch, lr=lr, temperature=temperature, votes=votes)
        self._note_state("update")
        return sums

    def _pass(self, network: nn.Module, group: ShardGroup, step: int) -> Tensor:
        (self._shard,) = group.shards
        self._forward = True
        logits = self._inner(network, group, step)
        self._forward = False
        if self._compiled:
            self._note("output", "", logits)
        return logits

    def _note_state(self, kind: Kind) -> None:
        self._shard = -1
        averaged = {f"ema.{name}": tensor for name, tensor in (self._torch.averaged_state() or {}).items()}
        state = {**self._torch.model_state(), **self._torch.optimizer_state(), **averaged}
        for name, tensor in state.items():
            self._note(kind, name, tensor)

    def _output_of(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._forward:
                for tensor in tensors_in(output):
                    self._note("output", name, tensor)

        return hook

    def _gradient_of(self, name: str) -> Callable[[Tensor], None]:
        return lambda gradient: self._note("gradient", name, gradient)

    def _note(self, kind: Kind, name: str, tensor: Tensor) -> None:
        self._entries.append(Entry(self._step, kind, self._shard, name, digest(tensor)))


def _is_compiled(part: nn.Module) -> bool:
    """Whether it is what `torch.compile` returns, or was compiled in place."""
    return hasattr(part, "_orig_mod") or part._compiled_call_impl is not None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a module's output: alone, or in tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def digest(tensor: Tensor) -> str:
    """A hash of a tensor's bits."""
    return hashlib.blake2b(bits_of(tensor), digest_size=8).hexdigest()
