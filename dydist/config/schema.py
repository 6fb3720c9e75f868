"""The whole configuration of a run: one frozen dataclass a section, each field with a line under it.

A run is a pure function of these values (docs/design.md). They come from a YAML file, then flags over it;
`dydist.config.reader` reads both. `dydist.config.rules` holds what a single field's type cannot say.
Imports neither torch nor numpy, so that a mistake is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dydist.config.types import FilePath


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run lives."""

    name: str = "run"
    """Name of the run; the run folder is `dir`/`name`."""
    dir: FilePath = "runs"
    """Folder that holds run folders."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    kind: Literal["dynamic", "static"] = "dynamic"
    """dynamic: every convolution but the stem is dynamic; static: the same network with ordinary ones."""
    attention: Literal["softmax", "sigmoid"] = "softmax"
    """How kernels are weighted: softmax with temperature, or independent sigmoids."""
    kernels: int = 4
    """K, the number of kernels a dynamic convolution mixes."""
    reduction: float = 0.25
    """Width of the attention's hidden layer as a share of the input channels."""
    stem: Literal["cifar", "strided", "imagenet"] = "cifar"
    """cifar: 3x3 stride 1; strided: 3x3 stride 2; imagenet: 7x7 stride 2 and a 3x3 max-pool."""
    width: float = 1.0
    """Multiplies every channel count (64, 128, 256, 512)."""
    dropout: float = 0.1
    """Dropout before the classifier."""
    strategy: Literal["auto", "grouped", "mix", "blocked", "fused", "winograd", "taps", "stacked"] = "auto"
    """How dynamic convolutions are computed: auto chooses for each layer; or one for all (docs/performance.md)."""
    bias: bool = False
    """Give dynamic convolutions K biases, mixed like the kernels."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images."""

    name: Literal["cifar10", "cifar100", "digits", "synthetic"] = "cifar10"
    """Which images. digits: 1,797 handwritten digits that scikit-learn ships; synthetic: for benchmarks."""
    root: FilePath = "data"
    """Folder that holds cifar-10-batches-py/ or cifar-100-python/; what is missing is downloaded there."""
    download: bool = True
    """Download the published archive when it is not under `root`."""
    augment: bool = True
    """Random crop and flip (digits: crop alone). Cutout, mixup and cutmix have fields of their own."""
    crop_padding: int = 4
    """Pixels of zero padding for the random crop."""
    cutout: int = 0
    """Side of the square set to the mean in each image (DeVries & Taylor, arXiv:1708.04552); 0 is off."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al., arXiv:1710.09412); 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix's Beta distribution (Yun et al., arXiv:1905.04899); 0 is off."""
    limit: int | None = None
    """Use the first so many images of the training split, and of the test split."""
    drop_last: bool = True
    """Leave out the last, smaller global batch of an epoch (other images each epoch). False: train on it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how large, how precise."""

    epochs: int = 40
    """Passes over the training images."""
    batch_size: int = 128
    """Images of one step over all processes together (the global batch)."""
    max_steps: int | None = None
    """Stop for good after so many steps. Schedules still follow `epochs`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32 (a GPU multiplies in TF32 unless reduce=exact), or autocast to bf16 or fp16 (fp16 with loss scaling)."""
    compile: bool = False
    """torch.compile the network."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """torch.compile's mode. On a GPU the other two replay CUDA graphs."""
    clip_norm: float | None = None
    """Clip the gradient of the global batch to this 2-norm."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights with this decay a step, and evaluate it too."""
    eval_every_epochs: float = 1.0
    """Evaluate after so many epochs (fractions allowed), and at the end."""
    eval_batch_size: int = 500
    """Images of one evaluation pass. Part of what exact evaluation depends on."""
    profile: str | None = None
    """Profile these steps, such as 10:20; the trace goes to profile/ in the run folder."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD and its learning rate."""

    lr: float = 0.1
    """Peak learning rate, for the global batch."""
    momentum: float = 0.9
    """Momentum."""
    weight_decay: float = 5e-4
    """L2 penalty, on every parameter unless `decay_norm_and_bias` is false."""
    decay_norm_and_bias: bool = True
    """Apply weight decay to batch-norm parameters and biases too."""
    nesterov: bool = False
    """Nesterov momentum."""
    schedule: Literal["milestones", "cosine", "linear"] = "milestones"
    """Shape of the learning rate after warm-up."""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.85)
    """Fractions of `train.epochs` at which the rate is multiplied by `gamma`."""
    gamma: float = 0.1
    """Factor at each milestone."""
    lr_end: float = 0.0
    """Where the cosine and linear schedules end."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up (fractions allowed)."""
    kernel_lr: float | Literal["auto"] = 1.0
    """Factor on the learning rate of dynamic kernels. auto: the mixed kernel learns as fast as a static one."""
    kernel_decay: float | Literal["auto"] = 1.0
    """Factor on the weight decay of dynamic kernels. auto: with kernel_lr=auto, mixed kernels decay as static ones."""
    attention_lr: float = 1.0
    """Factor on the learning rate of the attention's two layers."""


@dataclass(frozen=True, kw_only=True)
class TemperatureConfig:
    """Temperature of the attention's softmax."""

    start: float = 30.0
    """Temperature at step 0."""
    end: float = 1.0
    """Temperature after `epochs`, and from then on."""
    epochs: float = 10.0
    """Epochs from `start` to `end`, linear."""
    per: Literal["step", "epoch"] = "epoch"
    """Whether the temperature moves every step or every epoch."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the global batch is cut and put together again."""

    shards: int = 8
    """Parts of the global batch; the unit of work, batch statistics and randomness. At most this many processes."""
    reduce: Literal["fast", "exact"] = "fast"
    """fast: DDP's overlapped all-reduce; exact: one fixed tree, the same bits on any number of processes."""
    engine: Literal["ddp", "deepspeed"] = "ddp"
    """Which back end trains."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage, with the DeepSpeed engine."""
    offload: Literal["none", "optimizer", "param", "all"] = "none"
    """ZeRO-Offload: what lives in host memory. optimizer needs zero 1 or more, param and all need zero 3."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    threads: int | None = None
    """CPU threads a process. Default: the machine's cores shared out; with reduce=exact 1, as it must be equal."""
    timeout_s: float = 600.0
    """Seconds after which a collective that others do not join fails the run."""
    guard_every_steps: int = 200
    """Compare a hash of the weights between processes every so many steps, and at every save; 0: at saves alone."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is saved, where, how often."""

    url: FilePath | None = None
    """Folder or fsspec URL (s3://, sftp://, …). Default: checkpoints/ in the run folder."""
    every_steps: int | None = None
    """Save after so many steps. With neither this nor `every_minutes`: once an epoch."""
    every_minutes: float | None = None
    """Save after so many minutes."""
    keep: int = 3
    """How many of the newest checkpoints are kept."""
    keep_every_steps: int | None = None
    """Keep every checkpoint whose step is a multiple of this for ever."""
    keep_best: bool = True
    """Keep the checkpoint with the best test accuracy."""
    resume: FilePath = "auto"
    """auto: the newest valid one; never; a step; or the URL of another run's checkpoint to start weights from."""
    resume_classes: Literal["same", "any"] = "same"
    """any: when starting from another run's weights, its classifier may have another number of classes."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Options for the fsspec file system (endpoint, credentials). Secrets in it are never written or logged."""
    stage_dir: FilePath | None = None
    """Node-local folder where saves land first when `url` is remote. Default: a folder under the temporary one."""
    stage_keep: int = 2
    """How many checkpoints the local stage keeps at most."""
    deadline_s: float = 600.0
    """Seconds that one save may take, retries included, before it is reported as failed."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """What is shown and written while it runs."""

    logdir: FilePath | None = None
    """Folder or URL of the TensorBoard log. Default: tensorboard/ in the run folder."""
    every_steps: int = 20
    """Log a training line after so many steps."""
    histograms_every_steps: int = 500
    """Histograms of weights and gradients in TensorBoard after so many steps; 0: none."""
    prometheus_file: FilePath | None = None
    """File for node exporter's textfile collector, such as /var/lib/node_exporter/run.prom."""
    quiet: bool = False
    """No progress on the terminal, only warnings and errors."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run of dydist."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    """Seed of every random draw: initial weights, order, augmentation, dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
