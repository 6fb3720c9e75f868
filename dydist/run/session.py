"""Saves a run's state and restores it, and refuses to resume a run whose identity or data have changed."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dydist import __version__
from dydist.checkpoint import Checkpointer, RankGroup, RunInfo, TrainingState
from dydist.config import Config
from dydist.config.reader import flatten, from_dict, to_dict
from dydist.config.rules import is_local
from dydist.data import ImageDataset
from dydist.data.description import DataDescription
from dydist.data.splits import Splits
from dydist.engine import Engine, Progress, World, total_steps
from dydist.errors import UserError
from dydist.machine import processor_name
from dydist.models import build_model
from dydist.models.pretrained import classifier_of_others
from dydist.models.strategies import native
from dydist.process.report import Job
from dydist.randomness import derived_seed
from dydist.records import CheckpointRecord, Monitor
from dydist.run.folder import RunFolder, public_values, write_description
from dydist.run.own_network import changes, network_identity, network_with_weights
from dydist.schedules import learning_rate
from dydist.text.redaction import scrub

IDENTITY = (
    "seed",
    "model.kind",
    "model.attention",
    "model.kernels",
    "model.reduction",
    "model.stem",
    "model.width",
    "model.bias",
    "model.dynamic",
    "model.spread",
    "model.attention_norm",
    "model.attention_min_hidden",
    "model.channel_attention",
    "model.factory",
    "model.convert",
    "data.name",
    "data.factory",
    "data.side",
    "data.test_fraction",
    "data.split_seed",
    "data.normalisation",
    "data.limit",
    "data.validation",
    "data.validation_seed",
    "data.drop_last",
    "train.batch_size",
    "parallel.shards",
)
"""The run's identity: with another value of one of these fields, step N would mean something else."""
INITIAL = ("model.weights", "model.weights_classes")
"""Fields that affect only a new run."""

LEAVING_S = 5.0
"""Seconds reserved after a final save for reporting, exiting and being requeued."""


class Session:
    """Saves and restores one run. All methods are collective unless stated otherwise.

    Until `report_to` is called, `monitor` shows notes and `said` collects them. `stop_requested()` returns whether a
    signal was received. The end of process 0's `job` limits the time of a final save.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        world: World,
        run_dir: Path,
        splits: Splits,
        *,
        monitor: Monitor,
        stop_requested: Callable[[], bool],
        job: Job,
    ) -> None:
        self.config, self.engine, self.world, self.order = config, engine, world, splits.order
        held_out = splits.order.size - splits.order.dealt
        check_images(splits, world)
        self.data = world.first(lambda: DataDescription.of(splits.train, held_out=held_out))
        self.network = network_identity(config)
        self._train_set = splits.train
        self._job_end, self._run_dir = job.end, run_dir
        check_kernels(config, world)
        self.strategies: dict[str, str] = {}
        """The strategy of each dynamic layer. Checkpoints contain it, and `restore` reads it."""
        self.trained_with: dict[str, Any] = {}
        """The configuration that the restored checkpoint was written with, by section."""
        self.said: list[tuple[str, str]] = []
        """Text and level of each note before `report_to` was called."""
        self._monitor, self._reports = monitor, False
        self.url = config.checkpoint.url or str(run_dir / "checkpoints")
        self._folder = RunFolder(config, run_dir)
        self._checkpointer = Checkpointer(
            config.checkpoint,
            RunInfo(name=config.run.name, url=self.url, folder=run_dir, job=job.name or ""),
            RankGroup(rank=world.rank, world_size=world.size, broadcast=world.broadcast, gather=world.gather),
            on_record=self._record,
            on_note=self._note,
            stop=stop_requested,
        )

    @property
    def lost(self) -> bool:
        """Whether another run took one of this run's leases: the next save raises LeaseLostError."""
        return self._checkpointer.lost

    def record_claim(self) -> None:
        """Record this run as the folder's owner. Called shortly before the first step."""
        self._checkpointer.together(self._folder.record)
        if self.world.rank == 0:
            write_description(self._run_dir, self.data)

    def report_to(self, monitor: Monitor) -> None:
        """Report to `monitor` from now on. The caller has already given it the notes in `said`."""
        self._monitor, self._reports = monitor, True

    def restore(self) -> Progress:
        """Load the checkpoint that `checkpoint.resume` selects into the engine; returns the run's progress."""
        state = self._checkpointer.restore(self._folder.admit)
        if state is None:
            self._start_from_weights()
            return Progress()
        fresh = state.step == 0  # another run's weights, as initial values
        if not fresh:
            self._compare(dict(state.extra), state.step)
        model = self._with_own_classifier(state.model) if fresh else state.model
        try:
            self.engine.load(model, state.optimizer, state.ema, state.extra.get("engine", {}))
        except RuntimeError as error:
            raise UserError(
                f"checkpoint.resume: the checkpoint does not fit the network ({' '.join(str(error).split())}); "
                "use the model.* values it was written with"
            ) from error
        if fresh:
            return Progress()
        extra = state.extra
        self.trained_with = dict(extra.get("config", {}))
        self.strategies = dict(extra.get("strategies", {}))
        return Progress(
            step=state.step,
            best_accuracy=extra.get("best_accuracy"),
            last_accuracy=extra.get("last_accuracy"),
            test_accuracy=extra.get("test_accuracy"),
        )

    def _start_from_weights(self) -> None:
        """Load `model.weights`, if given, as the first weights of a new run."""
        if self.config.model.weights is None:
            return
        network, left = network_with_weights(self.config, self._train_set, self.world)
        self.engine.load(network.state_dict(), {}, {}, {})
        new = f", except for {', '.join(left)}, which are newly initialized" if left else ""
        self._note(f"The initial weights come from {scrub(self.config.model.weights)}{new}.")

    def _with_own_classifier(self, model: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Another run's weights, with a new classifier if `resume_classes` allows another number of classes."""
        if self.config.checkpoint.resume_classes == "same":
            return model
        own, classes = self.engine.model_state(), len(self.data.classes)
        if other := classifier_of_others(own, model, classes):
            self._note(f"The classifier is newly initialized for {classes} classes.")
        return {**model, **{name: own[name] for name in other}}

    def save(self, progress: Progress, *, final: bool) -> None:
        """Save the state as of `progress.step`, in the background unless `final`.

        A final save returns when it is committed, and must be committed within the time that is left.
        """
        limit = self.config.checkpoint.deadline_s
        if final:
            limit = self.world.broadcast(seconds_left(limit, self._job_end, time.time()))
        self._checkpointer.save(
            progress.step,
            lambda: self._state(progress),
            accuracy=progress.last_accuracy if progress.evaluated_step == progress.step else None,
            final=final,
            deadline_s=limit,
        )

    def close(self) -> None:
        """Wait for saves in flight, and release the leases. Not collective; also called after a failure."""
        self._checkpointer.close()

    def saved_steps(self) -> list[int] | None:
        """Steps with a checkpoint; None if the store cannot be listed. Not collective; valid after `close`, too."""
        return self._checkpointer.saved_steps()

    def _record(self, record: CheckpointRecord) -> None:
        self._monitor.checkpoint(record)

    def _note(self, text: str, level: str = "info") -> None:
        if not self._reports:
            self.said.append((text, level))
        self._monitor.note(text, level=level)

    def _state(self, progress: Progress) -> TrainingState:
        return TrainingState(
            step=progress.step,
            model=self.engine.model_state(),
            optimizer=self.engine.optimizer_state(),
            ema=self.engine.averaged_state() or {},
            extra={
                "best_accuracy": progress.best_accuracy,
                "last_accuracy": progress.last_accuracy,
                "test_accuracy": progress.test_accuracy,
                "engine": self.engine.extra_state(),
                "run": self._checkpointer.run_id,
                "config": public_values(self.config),
                "strategies": self.strategies,
                "network": self.network,
                "data": self.data.to_dict(),
                "world_size": self.world.size,
                "environment": environment(self.world),
            },
        )

    def _compare(self, extra: dict[str, Any], step: int) -> None:
        """Raise UserError if a field of the identity or the data has changed; report changes of all other fields.

        If no step is left, changed fields have no effect and are not reported.
        """
        before, now = flatten(extra.get("config", {})), flatten(public_values(self.config))
        if before:  # fields that were added after the checkpoint had today's defaults
            before = flatten(to_dict(Config())) | before
        changed = [name for name in now if name in before and before[name] != now[name]]
        if broken := [name for name in changed if name in IDENTITY]:
            raise UserError(
                "\n".join(
                    f"{name}: {now[name]} is not what this run was started with ({before[name]}); "
                    "use that value, or another run.name, or checkpoint.resume=never"
                    for name in broken
                )
            )
        if other := changes(extra.get("network", {}), self.network):
            raise UserError(
                f"model.factory: {self.config.model.factory} is not as it was when this run was started: other "
                f"{', '.join(other)}; bring that back, or give another run.name, or checkpoint.resume=never"
            )
        if other := list(self.data.differences(extra.get("data") or {})):
            raise UserError(
                f"data.root: these are not the images that this run was started with: {'; '.join(other)}; "
                "use the same data, or another run.name, or checkpoint.resume=never"
            )
        if step >= total_steps(self.config, self.order):
            return
        for name in changed:
            if not is_local(name) and name not in INITIAL:
                self._note(f"{name} was {before[name]} until now, and is {now[name]} from here on.")
        self._tell_rate(extra.get("config", {}), step)
        if self.config.parallel.reduce == "exact":
            there, here = extra.get("environment", {}), environment(self.world)
            for name in here:
                if name != "host" and name in there and there[name] != here[name]:
                    self._note(
                        f"{name} was {there[name]} and is {here[name]} here: the bits may differ from here on.",
                        level="warning",
                    )

    def _tell_rate(self, recorded: Mapping[str, Any], step: int) -> None:
        """Report a change of the next step's learning rate, for example because more epochs stretch the schedule."""
        try:
            before = from_dict(recorded, "state.json")
        except UserError:  # another version of dydist wrote it
            return
        was, now = (
            learning_rate(
                config.optim,
                step=step,
                steps_per_epoch=self.order.steps_per_epoch,
                epochs=config.train.epochs,
            )
            for config in (before, self.config)
        )
        if was != now:
            self._note(
                f"The learning rate of step {step + 1} would have been {was:.4g}, and is {now:.4g} now."
            )


def seconds_left(limit: float, until: float | None, now: float) -> float:
    """Seconds that a final save may take: `limit`, or less if the scheduler ends the job earlier (unix seconds)."""
    return limit if until is None else min(limit, max(1.0, until - now - LEAVING_S))


def check_kernels(config: Config, world: World) -> None:
    """With reduce=exact, raise UserError unless all processes use the same native kernels. Collective."""
    if config.parallel.reduce != "exact":
        return
    kinds = world.gather(native.identity())
    other = next((rank for rank, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise UserError(
            f"parallel.reduce: exact needs the same kernels everywhere, but rank 0 computes with {kinds[0]} and rank "
            f"{other} with {kinds[other]}; use the same C++ compiler and CPU on all nodes, or set DYDIST_NATIVE=0"
        )


def check_images(splits: Splits, world: World) -> None:
    """Raise UserError if it is known, without reading images, that processes see different ones. Collective."""
    train, test = splits.train, splits.test
    seen = world.gather((len(train), len(test), train.classes, train.content))
    other = next((rank for rank, images in enumerate(seen) if images != seen[0]), None)
    if other is not None:
        (train_0, test_0, *_), (trained, tested, *_) = seen[0], seen[other]
        raise UserError(
            f"data.root: rank {other} sees other images than rank 0: {trained:,} and {train_0:,} for training, "
            f"{tested:,} and {test_0:,} for the test, or other classes, pixels or labels; use the same data "
            "on all nodes"
        )


def build_model_for(config: Config, dataset: ImageDataset) -> nn.Module:
    """The network with its initial weights, which depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))
        return build_model(config.model, len(dataset.classes), dataset.images.shape[1:])


def environment(world: World) -> dict[str, Any]:
    """The versions and hardware on which results may depend, in addition to the configuration."""
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    return {
        "host": socket.gethostname(),
        "dydist": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "cpu": processor_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "kernels": native.identity(),
        "threads": torch.get_num_threads(),
    }
