from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import Tensor, nn

from dydist.config import Config, DataConfig, MonitorConfig
from dydist.data import ImageDataset, open_dataset
from dydist.engine import World
from dydist.models import dy_resnet18
from dydist.monitor import NullMonitor, NullProbe
from dydist.monitor.probes.evaluation import EvaluationStatistics
from dydist.monitor.probes.graph import module_graph
from dydist.monitor.probes.probe import RunProbe
from dydist.monitor.probes.profiling import StepProfiler, profile_range
from dydist.monitor.probes.timing import StepTimer, process_figures
from dydist.monitor.probes.weights import WeightStatistics, histograms
from dydist.records import ConfusionRecord, Detail, GraphRecord, HistogramsRecord, ImagesRecord

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What is measured of a sample is off by more than these tests allow in a few draws of a hundred."""
    torch.manual_seed(0)


class Kept(NullMonitor):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.details: list[Detail] = []
        self.notes: list[str] = []

    def detail(self, record: Detail) -> None:
        self.details.append(record)

    def note(self, text: str, *, level: str = "info") -> None:
        self.notes.append(text)


@pytest.fixture
def digits() -> ImageDataset:
    return open_dataset(DataConfig(name="digits"), "test")


def make_probe(
    config: Config, model: nn.Module, digits: ImageDataset, folder: Path, monitor: Kept
) -> RunProbe:
    world = World(0, 1, CPU)
    return RunProbe(config, model, world, evaluated=digits, run_dir=folder, monitor=monitor)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def test_a_logged_step_is_measured_and_others_are_not(digits: ImageDataset, tmp_path: Path) -> None:
    monitor = Kept()
    model = dy_resnet18(width=0.125, stem="strided")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = Config(monitor=MonitorConfig(histograms_every_steps=2))
    probe = make_probe(config, model, digits, tmp_path, monitor)
    images, labels = torch.randn(40, 3, 32, 32), torch.randint(10, (40,))
    for step, logged in ((1, False), (2, True)):
        probe.before_step(step, logged=logged)
        assert any(m._forward_hooks for m in model.modules()) == logged
        before = [p.detach().clone() for p in model.parameters()]
        train_step(model, optimizer, images, labels)
        probe.after_step(step, images, logged=logged, data_wait_s=0.25)
    assert probe.read(1) == ({}, {})
    extra, attention = probe.read(2)
    after = [p.detach() for p in model.parameters()]
    change = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True)))
    norm = math.sqrt(sum(float(p.square().sum()) for p in after))
    assert extra["optim/weight_norm"] == pytest.approx(norm, rel=1e-4)
    assert extra["optim/update_ratio"] == pytest.approx(change / norm, rel=0.02)  # of a sample
    assert extra["speed/busy_s"] > 0.25
    assert extra["speed/step_p50_s"] > 0
    assert extra["memory/process_bytes"] > 1e7
    assert len(attention) == 19
    assert sum(attention["layer1.0.conv1"].share) == pytest.approx(1.0)
    kinds = [type(record) for record in monitor.details]
    assert kinds == [GraphRecord, ImagesRecord, HistogramsRecord]
    shown = monitor.details[1]
    assert isinstance(shown, ImagesRecord)
    assert shown.images.shape == (32, 3, 32, 32)
    probe.close()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_an_evaluation_is_looked_at_closely(digits: ImageDataset, tmp_path: Path) -> None:
    """Logits made by hand: every image right but two, one of them taken for 7 with more confidence."""
    monitor = Kept()
    probe = make_probe(Config(), dy_resnet18(width=0.125), digits, tmp_path, monitor)
    labels = torch.from_numpy(digits.labels.copy())
    logits = 3.0 * F.one_hot(labels, 10).float()
    first, second = (int((labels == digit).nonzero()[2]) for digit in (1, 2))
    logits[first], logits[second] = 9.0 * F.one_hot(torch.tensor(7), 10), 5.0 * F.one_hot(torch.tensor(3), 10)
    observe = probe.begin_evaluation()
    for begin in range(0, len(labels), 500):
        observe(logits[begin : begin + 500], labels[begin : begin + 500])
    probe.end_evaluation(9)
    confusion, mistakes = monitor.details
    assert isinstance(confusion, ConfusionRecord)
    assert isinstance(mistakes, ImagesRecord)
    assert sum(map(sum, confusion.counts)) == len(labels)
    assert (confusion.counts[1][7], confusion.counts[2][3]) == (1, 1)
    assert sum(confusion.counts[digit][digit] for digit in range(10)) == len(labels) - 2
    assert [caption.split("\n")[:2] for caption in mistakes.captions] == [["1", "as 7"], ["2", "as 3"]]
    assert (mistakes.images == digits.images[[first, second]]).all()
    probe.close()


def test_blocks_of_two_processes_add_up() -> None:
    labels = torch.arange(10).repeat(5)
    logits = F.one_hot((labels + (torch.arange(50) % 7 == 0)) % 10, 10).float()
    whole = EvaluationStatistics(rank=0, size=1, block=8, classes=10, device=CPU)
    parts = [EvaluationStatistics(rank=r, size=2, block=8, classes=10, device=CPU) for r in (0, 1)]
    for block in range(7):
        rows = slice(8 * block, 8 * block + 8)
        whole.observe(logits[rows], labels[rows])
        parts[block % 2].observe(logits[rows], labels[rows])
    counts, _, mistakes = whole.finish(lambda value: [value])
    found = [part.finish(lambda value: [value]) for part in parts]
    assert (torch.tensor(found[0][0]) + torch.tensor(found[1][0])).tolist() == counts
    assert (
        {m.index for _, _, part in found for m in part} == {m.index for m in mistakes} == set(range(0, 50, 7))
    )


def test_the_graph_names_layers_by_their_place() -> None:
    graph = GraphDef.FromString(module_graph(dy_resnet18(width=0.125)))
    nodes = {node.name: node for node in graph.node}
    assert nodes["layer2/0/conv1"].op == "DynamicConv2d"
    assert nodes["layer2/0/bn1"].input == ["layer2/0/conv1"]
    assert nodes["fc"].op == "Linear"
    assert sum(node.op == "input" for node in graph.node) == 1  # the optional dropout mask is none
    assert all(source in nodes for node in graph.node for source in node.input)


def test_a_network_that_cannot_be_traced_only_lacks_its_graph(digits: ImageDataset, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    monitor = Kept()
    probe = make_probe(Config(), Branching(), digits, tmp_path, monitor)
    probe.before_step(1, logged=False)
    assert "no model graph" in monitor.notes[0]
    probe.close()


def test_a_profile_is_written_for_its_steps(tmp_path: Path) -> None:
    notes: list[str] = []
    profiler = StepProfiler(2, 3, tmp_path, tell=notes.append)
    for step in (1, 2, 3, 4):
        profiler.before_step(step)
        torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.after_step(step)
    trace = json.loads((tmp_path / "steps-2-3.pt.trace.json").read_text())
    assert sum(event["name"] == "aten::matmul" for event in trace["traceEvents"] if "name" in event) == 2
    assert "aten::mm" in (tmp_path / "steps-2-3.txt").read_text()
    assert "steps 2 to 3" in notes[0]


def test_a_run_that_ends_within_the_range_still_writes_its_profile(tmp_path: Path) -> None:
    profiler = StepProfiler(2, 10, tmp_path, tell=lambda text: None)
    profiler.before_step(4)  # resumed in the range
    profiler.after_step(4)
    profiler.close(5)
    profiler.close(5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["steps-4-5.pt.trace.json", "steps-4-5.txt"]


def test_profile_ranges() -> None:
    assert profile_range("10:20") == (10, 20)
    for wrong in ("10", "20:10", "0:5", "a:b"):
        with pytest.raises(ValueError):
            profile_range(wrong)


def test_busy_and_waiting_times_come_from_the_hooks() -> None:
    """A clock that ticks once a reading: begin, last gradient, optimiser, end are 1 apart."""
    ticks = iter(range(1000))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    timer = StepTimer(model, CPU, clock=lambda: float(next(ticks)))
    for _ in range(3):
        timer.begin()
        train_step(model, optimizer, torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
        timer.end(0.5)
    assert timer.window() == [1.5, 1.0]
    assert timer.window() == [0.0, 0.0]
    assert timer.percentiles()["speed/step_p50_s"] == 4.0
    timer.pause()
    for _ in range(7):
        next(ticks)  # an evaluation: no step's time
    timer.begin()
    timer.end(0.0)
    assert timer.percentiles()["speed/step_max_s"] == 2.0
    assert timer.percentiles() == {}
    timer.close()


def test_process_figures() -> None:
    figures = process_figures([[0.1, 0.3], [0.3, 0.1], [0.1, 0.3]])
    assert figures["ranks/slowest"] == 1
    assert figures["ranks/slowest_ratio"] == pytest.approx(3.0)
    assert figures["ranks/busy_s/1"] == 0.3
    assert "ranks/slowest" not in process_figures([[0.1, 0.0]])


def test_histograms_cover_weights_and_gradients() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300))
    assert set(histograms(model)) == {"weights/0.weight"}
    model(torch.randn(4, 300)).square().sum().backward()
    found = histograms(model)
    assert set(found) == {"weights/0.weight", "gradients/0.weight"}
    edges, counts = found["weights/0.weight"]
    assert counts.sum() == 32 * 256  # every eleventh run of 90,000 values
    assert edges[0] < 0 < edges[-1]


def test_weights_of_a_step_that_changes_nothing() -> None:
    weights = WeightStatistics(nn.Linear(3, 3))
    weights.begin()
    norm, ratio = weights.end().tolist()
    assert norm > 0
    assert ratio == 0


def test_an_update_is_measured_exactly_up_to_a_size_and_by_a_sample_beyond() -> None:
    for width, tolerance in ((150, 1e-4), (600, 0.05)):  # of 300 other draws the worst was off by 0.041
        model = nn.Linear(width, width)
        weights = WeightStatistics(model)
        weights.begin()
        before = [p.detach().clone() for p in model.parameters()]
        train_step(
            model, torch.optim.SGD(model.parameters(), lr=1.0), torch.randn(64, width), torch.arange(64)
        )
        norm, ratio = weights.end().tolist()
        change = torch.cat(
            [(now.detach() - old).flatten() for now, old in zip(model.parameters(), before, strict=True)]
        ).norm()
        assert ratio * norm == pytest.approx(float(change), rel=tolerance)


def test_the_null_probe_measures_nothing() -> None:
    probe = NullProbe()
    probe.before_step(1, logged=True)
    probe.after_step(1, None, logged=True, data_wait_s=0.0)
    assert probe.read(1) == ({}, {})
    assert probe.begin_evaluation() is None
    probe.end_evaluation(1)
