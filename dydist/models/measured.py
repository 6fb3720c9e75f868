"""Measures each strategy on this machine, by layer shape; caches the times on disk by hardware and version."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from dydist.models.strategies import Geometry, Shape, dynamic_conv2d, rule
from dydist.models.strategies.native import build, identity, library
from dydist.models.strategies.winograd import is_supported
from dydist.private_files import is_own_file, own_folder

MEASURED_IMAGES = {"cpu": 32, "cuda": 512}
"""Maximum batch size for a measurement, by device type: ratios between strategies hardly change beyond it. On a GPU,
a smaller batch would measure kernel launches."""
SLOW, HOPELESS = 4.0, 1.5
"""A strategy slower than the best by this factor in its first, or its second, pass is not measured again."""
ROUNDS, ENOUGH_S = 20, 0.1
"""The others are interleaved for this many rounds, or for this many seconds after the second round."""
TAPS_PIXELS = {"cpu": 16, "cuda": 4}
"""`taps` is measured up to this many output pixels: more pixels mean more matrix products, not larger ones, and on a
GPU each is a kernel launch."""
LOCK_S = 120.0
"""Seconds to wait for another process's measurement."""


@dataclass(frozen=True)
class Problem:
    """One layer to be timed. `size`: x's [N, C, H, W]; `weight`: the kernels' shape."""

    shape: Shape
    size: tuple[int, int, int, int]
    weight: tuple[int, int, int, int, int]
    geometry: Geometry
    dtype: torch.dtype
    device: torch.device

    @property
    def images(self) -> int:
        """Batch size of the measurement."""
        return min(self.size[0], MEASURED_IMAGES.get(self.device.type, 32))

    @property
    def key(self) -> str:
        """Everything on which times depend, besides the machine."""
        sizes = [self.images, *self.size[1:], *self.weight, *self.geometry]
        return json.dumps([*sizes, str(self.dtype), self.device.type, *self.candidates()])

    def candidates(self) -> tuple[str, ...]:
        """Strategies worth measuring, and the rule's. `grouped` is left out: `blocked` does the same with less memory.

        On GPUs, strategies that store K outputs and grouped convolutions per image are slow, and are left out too.
        """
        names = ["stacked"]
        if self.device.type == "cpu":
            names = ["mix", "blocked", "fused"]
            if is_supported(self.shape.kernel, self.geometry):
                names.append("winograd")
        if (ruled := rule(self.shape, self.device.type)) not in names:
            names.append(ruled)
        if "taps" not in names and self.shape.pixels <= TAPS_PIXELS.get(self.device.type, 4):
            names.append("taps")
        return tuple(names)


class TimingCache:
    """Minimum seconds of forward and backward by problem and strategy: read from `path`, or measured and saved there.

    One process per machine measures at a time; others wait and use its times, so that two runs that start together
    make the same choice and do not disturb each other. A file that another user could have written is neither read nor
    replaced.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path, self._clock = path, clock
        self._known: dict[str, dict[str, float]] = {}

    def measure(self, problems: Mapping[str, Problem]) -> dict[str, dict[str, float]]:
        """{name: {strategy: seconds}} for each of `problems`."""
        machines = {name: machine(problem.device) for name, problem in problems.items()}
        keys = {name: f"{machines[name]} {problem.key}" for name, problem in problems.items()}
        self._known = self._read()
        if not all(key in self._known for key in keys.values()):
            with self._alone():
                self._known = self._read() | self._known
                for name, problem in problems.items():
                    if keys[name] not in self._known:
                        self._known[keys[name]] = time_strategies(problem, self._clock)
                self._write()
        return {name: self._known[key] for name, key in keys.items()}

    def _read(self) -> dict[str, dict[str, float]]:
        if not (self._own() and is_own_file(self.path)):
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing or damaged: measure again
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Replace the file atomically. A full disk is ignored."""
        if not self._own():
            return
        try:
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_text(json.dumps(self._known, indent=1, sort_keys=True), encoding="utf-8")
            draft.chmod(0o644)  # regardless of the umask
            os.replace(draft, self.path)
        except OSError:
            return

    def _own(self) -> bool:
        """Whether the folder belongs to this user."""
        try:
            own_folder(self.path.parent)
        except OSError:
            return False
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file's lock if possible; a folder that cannot be written must not stop a run."""
        lock = FileLock(f"{self.path}.lock", timeout=LOCK_S)
        try:
            own_folder(self.path.parent)
            lock.acquire()
        except (OSError, NotImplementedError, Timeout):
            yield
            return
        try:
            yield
        finally:
            lock.release()


def machine(device: torch.device) -> str:
    """An identifier of the hardware and versions on which times depend."""
    parts: list[Any] = [torch.__version__, build.cpu()]
    if device.type == "cuda":
        parts += [torch.cuda.get_device_name(device), torch.backends.cudnn.version()]
    else:
        parts += [torch.get_num_threads(), identity()]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def time_strategies(problem: Problem, clock: Callable[[], float]) -> dict[str, float]:
    """Minimum seconds of forward and backward by strategy; very slow strategies are run only once or twice."""
    library()  # builds it now rather than in the first pass
    if problem.device.type == "cuda":
        # else the backward thread warns that it has no CUDA context
        torch.ones((), device=problem.device, requires_grad=True).mul(2).backward()
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(problem.device, problem.dtype)

    images = problem.images
    x, weight = draw(images, *problem.size[1:]).requires_grad_(), draw(*problem.weight).requires_grad_()
    attention = torch.softmax(draw(images, problem.weight[0]), 1).requires_grad_()
    gradient: Tensor | None = None

    def once(strategy: str) -> float:
        nonlocal gradient
        _wait(problem.device)
        began = clock()
        out = dynamic_conv2d(x, attention, weight, None, *problem.geometry, strategy=strategy)
        gradient = torch.ones_like(out) if gradient is None else gradient
        torch.autograd.grad(out, (x, attention, weight), gradient)
        _wait(problem.device)
        return clock() - began

    if problem.device.type == "cuda":  # the first pass compiles kernels and runs cuDNN's benchmark
        for name in problem.candidates():
            once(name)
    seconds = {name: once(name) for name in problem.candidates()}
    again = {name: once(name) for name in _within(SLOW, seconds)}  # caches are warm now, and memory is mapped
    seconds |= again
    close = _within(HOPELESS, again)
    spent = 0.0
    for number in range(ROUNDS):
        for name in close:
            took = once(name)
            seconds[name] = min(seconds[name], took)
            spent += took
        if number > 0 and spent >= ENOUGH_S:
            break
    return seconds


def _within(factor: float, seconds: Mapping[str, float]) -> list[str]:
    """Names of the strategies that take at most `factor` times the minimum."""
    limit = factor * min(seconds.values())
    return [name for name, value in seconds.items() if value <= limit]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
