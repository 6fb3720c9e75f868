"""A model of the step time on many GPUs: compute, all-reduce by latency and bandwidth, stragglers.

Every number has its source or is measured; docs/notes/performance.md says which, and what the model neglects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dydist.models import dy_resnet18, dynamic_layers
from dydist.models.resnet import Stem

RESNET50_IMAGES_PER_S = 938.0
"""Training ResNet-50 v1.5 on one A100, TF32 (NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5,
"Training performance: NVIDIA DGX A100 (8x A100 80GB)")."""
RESNET50_MULTIPLY_ADDS = 4.1e9
"""One forward pass of ResNet-50 at 224 pixels (He et al., arXiv:1512.03385, table 1: 3.8e9; v1.5 strides later)."""
NODE_GPUS = 8
NETWORK_BYTES_PER_S = 8 * 200e9 / 8
"""A DGX A100 node's eight 200 Gb/s adapters, each way (NVIDIA DGX A100 data sheet)."""
NVLINK_BYTES_PER_S = 300e9
"""One A100's third-generation NVLink, each way (NVIDIA A100 data sheet: 600 GB/s both ways together)."""


@dataclass(frozen=True)
class Latency:
    """Latencies of an NCCL algorithm in microseconds: base, per step through NVLink, per step through the network."""

    base: float
    nvlink: float
    network: float


RING, TREE = Latency(8.4, 3.4, 14.0), Latency(0.0, 28.0, 28.0)
"""NCCL's own model (NVIDIA/nccl, src/graph/tuning.cc, commit b6475625, `baseLat` and `hwLat`, protocol Simple)."""
TREE_BANDWIDTH = 0.92 * 0.85
"""Fraction of the bandwidth that NCCL's tree reaches, by the same file."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one world size. Milliseconds; `overlapped`: the part of the all-reduce hidden by
    backward."""

    gpus: int
    compute_ms: float
    all_reduce_ms: float
    overlapped_ms: float
    straggler_ms: float

    @property
    def step_ms(self) -> float:
        """The whole step."""
        return self.compute_ms + self.all_reduce_ms - self.overlapped_ms + self.straggler_ms

    @property
    def efficiency(self) -> float:
        """Images per second and GPU, relative to a single GPU."""
        return self.compute_ms / self.step_ms

    @property
    def limit(self) -> str:
        """The largest cost besides computing."""
        exposed = self.all_reduce_ms - self.overlapped_ms
        if max(exposed, self.straggler_ms) < 0.01 * self.compute_ms:
            return "nothing"
        return "all-reduce" if exposed > self.straggler_ms else "stragglers"


def predict(
    gpus: int, *, images_per_gpu: int, multiply_adds: float, gradient_bytes: float, jitter: float
) -> Prediction:
    """Predict a step on `gpus` A100s, eight per node, with `images_per_gpu` images on each.

    `multiply_adds`: of forward and backward for one image. `jitter`: standard deviation of a process's step over its
    mean. A quarter of the all-reduce is assumed to be exposed (DDP's last bucket of 25 MiB starts when the backward
    pass ends, the one before shortly earlier); the rest overlaps with the backward pass, which is two thirds of
    computing. The slowest of N normally distributed processes is sqrt(2 ln N) standard deviations above the mean.
    """
    rate = RESNET50_IMAGES_PER_S * 3 * RESNET50_MULTIPLY_ADDS
    compute = images_per_gpu * multiply_adds / rate
    reduce = all_reduce_s(gpus, gradient_bytes)
    overlapped = min(0.75 * reduce, 2 / 3 * compute)
    straggler = jitter * compute * math.sqrt(2 * math.log(gpus)) if gpus > 1 else 0.0
    return Prediction(gpus, 1000 * compute, 1000 * reduce, 1000 * overlapped, 1000 * straggler)


def all_reduce_s(gpus: int, size: float) -> float:
    """Seconds of one all-reduce of `size` bytes: the better of NCCL's ring and tree, by its own formulas."""
    if gpus == 1:
        return 0.0
    nodes = -(-gpus // NODE_GPUS)
    each = min(gpus, NODE_GPUS)
    bandwidth = NVLINK_BYTES_PER_S if nodes == 1 else min(NVLINK_BYTES_PER_S, NETWORK_BYTES_PER_S)
    steps, between = 2 * (gpus - 1), 2 * nodes if nodes > 1 else 0
    ring = RING.base + (steps - between) * RING.nvlink + between * RING.network
    tree = TREE.base + 2 * ((each - 1) * TREE.nvlink + math.floor(math.log2(nodes)) * TREE.network)
    return min(
        ring * 1e-6 + 2 * (gpus - 1) / gpus * size / bandwidth,
        tree * 1e-6 + 2 * size / (TREE_BANDWIDTH * bandwidth),
    )


def step_multiply_adds(*, stem: Stem, width: float) -> float:
    """Multiply-adds of forward and backward of DY-ResNet18 for one image of 32 pixels, including mixing."""
    total = 0.0
    for layer in dynamic_layers(dy_resnet18(stem=stem, width=width), (3, 32, 32)).values():
        shape = layer.shape(1)
        weights = layer.weight[1] * shape.fan_in
        total += weights * min(3 * shape.pixels + 4 * shape.kernels, 3 * shape.kernels * shape.pixels)
    return total
