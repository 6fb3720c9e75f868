"""The training loop: every process trains, evaluates, saves and stops at the same steps.

Its only state is the step and the accuracies; everything else is a function of configuration and step. Monitors and
the saver are arguments: the loop depends on neither TensorBoard nor storage.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dydist.config import Config
from dydist.data.dataset import ImageDataset
from dydist.data.loader import ShardedLoader
from dydist.data.order import Order, rank_shards
from dydist.data.splits import Splits
from dydist.engine.core import AUTOCAST, begin_step
from dydist.engine.evaluate import evaluate
from dydist.engine.guard import check_agreement, check_finite
from dydist.engine.optimizer import kernel_factors
from dydist.engine.protocol import Engine, StepSums, Votes
from dydist.engine.world import World
from dydist.errors import DivergedError
from dydist.records import EvaluationRecord, Monitor, Probe, StepRecord
from dydist.schedules import evaluation_temperature, learning_rate, temperature

LOSSES_KEPT = 100_000
"""Number of recent losses kept, to find the last step with a normal loss if the run diverges."""


class Saver(Protocol):
    """Saves the run's state; called on all processes. `final`: returns only when the save is committed."""

    def __call__(self, progress: Progress, *, final: bool) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run: its state outside the engine. `step` counts finished steps."""

    step: int = 0
    best_accuracy: float | None = None
    last_accuracy: float | None = None
    test_accuracy: float | None = None
    """The finished run's accuracy on the test split, if the other accuracies are on a validation split; else None."""
    evaluated_step: int | None = None
    """The step at which `last_accuracy` was measured."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What the loop calls besides the engine, on every process."""

    monitor: Monitor
    probe: Probe
    save: Saver
    stop_requested: Callable[[], bool] = lambda: False
    """Whether this process asks all of them to stop after the next step."""
    heartbeat: Callable[[int], None] = lambda step: None
    """Called with the number of finished steps, after each step and each block of an evaluation."""


class Loop:
    """Runs one training run from `progress` to its end or to a stop."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        world: World,
        splits: Splits,
        callbacks: Callbacks,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.engine, self.world, self.splits = config, engine, world, splits
        self.monitor, self._probe, self._save = callbacks.monitor, callbacks.probe, callbacks.save
        self._stop_requested, self._heartbeat = callbacks.stop_requested, callbacks.heartbeat
        self._clock = clock
        self.steps_per_epoch = splits.order.steps_per_epoch
        self.total_steps = total_steps(config, splits.order)
        self._lag = 1 if world.device.type == "cuda" else 0  # on a GPU, reading at once would drain its queue
        self._saved_at = clock()
        self._window_began = clock()
        self._window_wait = 0.0
        self._window_steps = 0
        self.losses: deque[tuple[int, float]] = deque(maxlen=LOSSES_KEPT)
        """(step, loss) of the most recent steps, logged or not. `step` counts finished steps."""

    def run(self, progress: Progress) -> tuple[Progress, bool]:
        """Train to the end, or to an agreed stop; returns the progress and whether the run is done."""
        shards = rank_shards(self.world.rank, self.world.size, self.config.parallel.shards)
        start = progress.step
        self.monitor.start(step=start, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
        saved = start
        stopped = False
        pending: deque[tuple[StepRecord, Callable[[], StepSums]]] = deque()
        self._saved_at = self._window_began = self._clock()
        if start < self.total_steps:  # if a finished run is extended, its test accuracy no longer applies
            progress = replace(progress, test_accuracy=None)
        with ShardedLoader(
            self.splits.train,
            self.config.data,
            self.splits.order,
            shards,
            device=self.world.device,
            start=start,
            stop=self.total_steps,
            together=self.config.parallel.reduce == "fast",
        ) as loader:
            for batch in loader:
                self._window_wait += loader.wait_s
                record = self._scheduled(batch.step)
                votes = Votes(stop=self._stop_requested(), save=self._save_is_due())
                logged = self._logged(record.step)
                self._probe.before_step(record.step, logged=logged)
                sums = self.engine.train_step(
                    batch, lr=record.lr, temperature=record.temperature, votes=votes
                )
                images = batch.groups[0].images if batch.groups else None
                self._probe.after_step(record.step, images, logged=logged, data_wait_s=loader.wait_s)
                pending.append((record, sums))
                self._window_steps += 1
                step = batch.step + 1
                progress = replace(progress, step=step)
                evaluate_now, save_now, check_now = self._due(step)
                # read a logged step's gradient norm before the next step overwrites the gradient
                drain = evaluate_now or save_now or check_now or logged or step == self.total_steps
                while len(pending) > (0 if drain else self._lag):
                    agreed = self._settle(*pending.popleft())
                    stopped |= agreed.stop
                    save_now |= agreed.save
                self._heartbeat(step)
                stopped &= step < self.total_steps
                while pending and (stopped or save_now):  # check every loss before a save
                    self._settle(*pending.popleft())
                if evaluate_now:
                    progress = self.evaluate(progress)
                if save_now or check_now or stopped or step == self.total_steps:
                    self._check(step)
                if save_now and not stopped and step < self.total_steps:
                    self._save(progress, final=False)
                    saved, self._saved_at = step, self._clock()
                if stopped:
                    break
        if progress.last_accuracy is None and not stopped:
            progress = self.evaluate(progress)
        if saved != progress.step:
            self._save(progress, final=True)
        return progress, not stopped

    def evaluate(self, progress: Progress) -> Progress:
        """Evaluate the weights, and the averaged weights if any; report to the monitor.

        With a validation split, evaluates on that split, and at the end of the run on the test split, too. The run's
        test accuracy is then that of whichever has the higher validation accuracy: the weights or the averaged weights.
        """
        step = progress.step
        progress = replace(progress, last_accuracy=None, evaluated_step=step)
        self.engine.set_temperature(
            evaluation_temperature(self.config.temperature, step=step, steps_per_epoch=self.steps_per_epoch)
        )
        for ema in (False, True):
            predict = self._predict(ema)
            if predict is None:
                continue
            accuracy = self._evaluate_on(
                self.splits.evaluated,
                predict,
                step,
                ema=ema,
                observe=None if ema else self._probe.begin_evaluation(),
            )
            if not ema:
                self._probe.end_evaluation(step)
            better = progress.last_accuracy is None or accuracy > progress.last_accuracy
            progress = replace(
                progress,
                best_accuracy=max(accuracy, progress.best_accuracy or 0.0),
                last_accuracy=max(accuracy, progress.last_accuracy or 0.0),
            )
            if self.splits.validation is not None and step == self.total_steps:
                tested = self._evaluate_on(self.splits.test, predict, step, ema=ema, observe=None)
                progress = replace(progress, test_accuracy=tested) if better else progress
        self._window_began, self._window_wait, self._window_steps = self._clock(), 0.0, 0
        return progress

    def _evaluate_on(
        self,
        images: ImageDataset,
        predict: Callable[[Tensor], Tensor],
        step: int,
        *,
        ema: bool,
        observe: Callable[[Tensor, Tensor], None] | None,
    ) -> float:
        """Evaluate on one split and report it; returns the accuracy. Raises DivergedError if the loss is not finite."""
        began = self._clock()
        split = "test" if images is self.splits.test else "validation"
        with self._autocast():
            result = evaluate(
                predict,
                images,
                self.world,
                batch_size=self.config.train.eval_batch_size,
                together=self.config.parallel.zero == 3,
                observe=observe,
                heartbeat=lambda: self._heartbeat(step),
            )
        self.monitor.evaluation(
            EvaluationRecord(
                step=step,
                epoch=self._epoch(step - 1),
                loss=result.loss,
                accuracy=result.accuracy,
                images=result.images,
                seconds=self._clock() - began,
                ema=ema,
                split=split,
            )
        )
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"step {step}: the {split} loss is {result.loss}; the earlier checkpoints were not "
                "overwritten. Try a lower optim.lr, train.clip_norm, or train.precision=fp32",
                unbounded=True,
            )
        return result.accuracy

    def _predict(self, ema: bool) -> Callable[[Tensor], Tensor] | None:
        model = self.engine.model.eval()
        averaged = self.engine.averaged_state() if ema else {}
        if averaged is None:
            return None

        def predict(images: Tensor) -> Tensor:
            begin_step(self.config.train.compile_mode)
            logits: Tensor = (
                torch.func.functional_call(model, averaged, (images,)) if averaged else model(images)
            )
            return logits

        return predict

    def _autocast(self) -> AbstractContextManager[object]:
        precision = AUTOCAST.get(self.config.train.precision)
        return (
            torch.autocast(self.world.device.type, dtype=precision)
            if precision is not None
            else nullcontext()
        )

    def _scheduled(self, step: int) -> StepRecord:
        """The learning rate and temperature of a step, in the record that is logged after it.

        Every process computes them from configuration and step, without communication. `step` counts from 0 here,
        from 1 in the record.
        """
        return StepRecord(
            step=step + 1,
            epoch=self._epoch(step),
            loss=math.nan,
            accuracy=math.nan,
            lr=learning_rate(
                self.config.optim,
                step=step,
                steps_per_epoch=self.steps_per_epoch,
                epochs=self.config.train.epochs,
            ),
            temperature=temperature(self.config.temperature, step=step, steps_per_epoch=self.steps_per_epoch),
            images_per_s=0.0,
        )

    def _kernel_rate(self, lr: float) -> dict[str, float]:
        """The learning rate of dynamic kernels, by TensorBoard tag; empty for a static network."""
        model = self.config.model
        if not model.dynamic_kernels:
            return {}
        factor, _ = kernel_factors(self.config.optim, kind=model.attention, kernels=model.kernels)
        return {"schedule/kernel_lr": lr * factor}

    def _logged(self, step: int) -> bool:
        """Whether to log after `step` finished steps; the same on every process."""
        return step % self.config.monitor.every_steps == 0 or step in (1, self.total_steps)

    def _epoch(self, step: int) -> int:
        return max(0, step) // self.steps_per_epoch

    def _settle(self, record: StepRecord, read: Callable[[], StepSums]) -> StepSums:
        """Wait for a step's sums; raise DivergedError if the loss is not finite; log them if due."""
        sums = read()
        self.losses.append((record.step, sums.loss))
        if not math.isfinite(sums.loss):
            raise DivergedError(
                f"step {record.step}: the loss is {sums.loss}; the earlier checkpoints were not overwritten. "
                f"Try a lower optim.lr (now {record.lr:g}), optim.warmup_epochs, train.clip_norm, "
                "or train.precision=fp32",
                unbounded=True,
            )
        if self._logged(record.step):
            extra, attention = self._probe.read(record.step)
            now = self._clock()
            seconds, steps = max(now - self._window_began, 1e-9), max(1, self._window_steps)
            self.monitor.step(
                replace(
                    record,
                    loss=sums.loss,
                    accuracy=sums.accuracy,
                    images_per_s=steps * self.config.train.batch_size / seconds,
                    data_wait_s=self._window_wait / steps,
                    step_s=seconds / steps,
                    grad_norm=self.engine.grad_norm(),
                    extra={"data_hash": sums.data_hash, **self._kernel_rate(record.lr), **extra},
                    attention=attention,
                )
            )
            self._window_began, self._window_wait, self._window_steps = now, 0.0, 0
        return sums

    def _due(self, step: int) -> tuple[bool, bool, bool]:
        """Whether to evaluate, save and compare weights after this step. Saves by `every_minutes` are voted on."""
        train, checkpoint = self.config.train, self.config.checkpoint
        every = max(1, round(train.eval_every_epochs * self.steps_per_epoch))
        save_every = checkpoint.every_steps
        if save_every is None and checkpoint.every_minutes is None:
            save_every = self.steps_per_epoch
        guard = self.config.parallel.guard_every_steps
        return (
            step % every == 0 or step == self.total_steps,
            save_every is not None and step % save_every == 0,
            guard > 0 and step % guard == 0,
        )

    def _save_is_due(self) -> bool:
        minutes = self.config.checkpoint.every_minutes
        return self.world.rank == 0 and minutes is not None and self._clock() - self._saved_at >= 60 * minutes

    def _check(self, step: int) -> None:
        averaged = {f"ema.{name}": tensor for name, tensor in (self.engine.averaged_state() or {}).items()}
        state = {**self.engine.model_state(), **self.engine.optimizer_state(), **averaged}
        check_agreement(state, step, self.world)
        check_finite(state, step)  # after the comparison, so that all processes raise the same error


def total_steps(config: Config, order: Order) -> int:
    """Steps of the whole run."""
    steps = config.train.epochs * order.steps_per_epoch
    return steps if config.train.max_steps is None else min(steps, config.train.max_steps)
