"""Times of each strategy on this machine, by layer shape, kept on disk by hardware and version."""

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
"""At most so many images are used to measure: ratios between strategies hardly change beyond. With fewer a GPU would
wait for its launches, and those would be measured."""
SLOW, HOPELESS = 4.0, 1.5
"""A strategy that takes so many times the best in its first pass, or in its second, is not measured again."""
ROUNDS, ENOUGH_S = 20, 0.1
"""The others take turns, twice at least: so many times, or until that took so many seconds."""
TAPS_PIXELS = {"cpu": 16, "cuda": 4}
"""`taps` is tried up to so many output pixels: its products grow with their number, and get no larger. On a GPU each is
a launch."""
LOCK_S = 120.0
"""So long another process's measurement is waited for."""


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
        """Images that are used to measure."""
        return min(self.size[0], MEASURED_IMAGES.get(self.device.type, 32))

    @property
    def key(self) -> str:
        """Everything that times depend on, beside the machine."""
        sizes = [self.images, *self.size[1:], *self.weight, *self.geometry]
        return json.dumps([*sizes, str(self.dtype), self.device.type, *self.candidates()])

    def candidates(self) -> tuple[str, ...]:
        """Strategies worth timing. Not `grouped`: `blocked` is that with less memory."""
        if self.device.type == "cpu":
            names = ["mix", "blocked", "fused"]
            if is_supported(self.shape.kernel, self.geometry):
                names.append("winograd")
        else:  # of those that keep no K outputs; GPUs are slow at convolutions with a group for every image
            names = list(dict.fromkeys(["stacked", rule(self.shape, self.device.type)]))
        if "taps" not in names and self.shape.pixels <= TAPS_PIXELS.get(self.device.type, 4):
            names.append("taps")
        return tuple(names)


class TimingCache:
    """Least seconds of forward and backward, by problem and strategy: read from `path`, or measured and kept there.

    One process of a machine measures at a time, and others that want the same take its figures: two runs that
    start together choose alike, and do not disturb each other's clocks. A file that another user could have written is
    neither believed nor replaced.
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
        except (OSError, ValueError):  # Missing, or torn: measure again.
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Keep what is known, whole or not at all. A full disk costs only time."""
        if not self._own():
            return
        try:
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_text(json.dumps(self._known, indent=1, sort_keys=True), encoding="utf-8")
            draft.chmod(0o644)  # whatever the umask
            os.replace(draft, self.path)
        except OSError:
            return

    def _own(self) -> bool:
        """Whether the folder is this user's own."""
        try:
            own_folder(self.path.parent)
        except OSError:
            return False
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file's lock where there can be one; a place that cannot be written must not stop a run."""
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
    """Names the hardware and the versions that times depend on."""
    parts: list[Any] = [torch.__version__, build.cpu()]
    if device.type == "cuda":
        parts += [torch.cuda.get_device_name(device), torch.backends.cudnn.version()]
    else:
        parts += [torch.get_num_threads(), identity()]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def time_strategies(problem: Problem, clock: Callable[[], float]) -> dict[str, float]:
    """Least seconds of forward and backward by strategy; those that are far behind are tried once or twice."""
    library()  # or the first pass would build it
    if problem.device.type == "cuda":
        # or the thread of backward passes would warn that it has no context yet
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

    if problem.device.type == "cuda":  # a first pass compiles kernels and has cuDNN try its algorithms
        for name in problem.candidates():
            once(name)
    seconds = {name: once(name) for name in problem.candidates()}
    again = {name: once(name) for name in _within(SLOW, seconds)}  # caches are warm now, and pages are there
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
    """Names of those that take at most `factor` times the least."""
    limit = factor * min(seconds.values())
    return [name for name, value in seconds.items() if value <= limit]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
