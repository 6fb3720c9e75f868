"""The configuration of a run: a frozen dataclass per section, with a description under each field.

A run is a pure function of these values (docs/design.md). They come from a YAML file, then flags over it;
`dydist.config.reader` reads both. `dydist.config.rules` has the checks that types cannot express. Imports neither
torch nor numpy, so that a mistake is reported without delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from dydist.config.data_sets import DataName
from dydist.config.types import Added, FilePath


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run folder."""

    name: str = "run"
    """Name of the run; the run folder is `dir`/`name`."""
    dir: FilePath = "runs"
    """Folder that contains run folders."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.dir) / self.name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    kind: Literal["dynamic", "static"] = "dynamic"
    """dynamic: every convolution but the stem is dynamic; static: the same network with ordinary ones."""
    attention: Literal["softmax", "sigmoid", "l1"] = "softmax"
    """How kernels are weighted: softmax with temperature, independent sigmoids, or logits over the sum of |logits|."""
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
    strategy: Annotated[
        Literal["auto", "grouped", "mix", "blocked", "fused", "winograd", "taps", "stacked"],
        Added("dydist.strategies"),
    ] = "auto"
    """Implementation of dynamic convolutions: auto chooses one per layer; or one for all (docs/performance.md)."""
    bias: bool = False
    """Give dynamic convolutions K biases, mixed like the kernels."""
    dynamic: str = "*"
    """Pattern, as in a shell, of the names of convolutions that are dynamic, such as layer[34].*; the stem never is."""
    spread: float | None = None
    """Start the K kernels as one plus perturbations of this relative size. null: independent kernels."""
    attention_norm: Literal["none", "batch"] = "none"
    """Normalisation of the attention's hidden layer: batch is batch norm, by shard."""
    attention_min_hidden: int = 1
    """Lower limit of the width of the attention's hidden layer."""
    channel_attention: bool = False
    """Scale the input and output channels of dynamic convolutions by attention too."""
    factory: str | None = None
    """A network of your own, package.module:function (docs/your-network.md). kind, stem, width, dropout and bias are
    the built-in one's."""
    options: dict[str, Any] = field(default_factory=dict, hash=False, metadata={"open": True})
    """Keyword arguments of `factory`."""
    convert: bool = False
    """Make the convolutions of `factory`'s network dynamic: all but the first."""
    weights: FilePath | None = None
    """safetensors file, a path or a URL, with the weights that a new run starts from, before `convert`."""
    weights_classes: Literal["same", "any"] = "same"
    """any: the classifier in `weights` may have another number of classes; it is then left as it was initialized."""

    @property
    def dynamic_kernels(self) -> bool:
        """Whether this configuration, not the factory itself, makes convolutions dynamic."""
        return self.kind == "dynamic" if self.factory is None else self.convert


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images."""

    name: Annotated[DataName, Added("dydist.data_sets")] = "cifar10"
    """Data set. folder, npz, factory: your own (docs/your-images.md); synthetic: random images, for benchmarks."""
    root: FilePath = "data"
    """Folder with cifar-10-batches-py/ or cifar-100-python/ (downloaded when missing), or class folders, or .npz."""
    factory: str | None = None
    """Function package.module:function(split, **options) that returns images and labels, with name=factory."""
    options: dict[str, Any] = field(default_factory=dict, hash=False, metadata={"open": True})
    """Keyword arguments of `factory`."""
    side: int = 64
    """Height and width to which the images of a folder are scaled."""
    test_fraction: float = 0.2
    """Share of each class that is for the test, where a folder or an .npz file has no split."""
    split_seed: int = 0
    """Seed of that split."""
    normalisation: Literal["data", "imagenet"] = "data"
    """Mean and standard deviation: of the training images, or ImageNet's, as pretrained networks expect."""
    flip: bool | None = None
    """Flip training images at random. null: not digits and synthetic."""
    download: bool = True
    """Download the published archive when it is not under `root`."""
    augment: bool = True
    """Random crop and flip, and what the fields below say."""
    crop_padding: int = 4
    """Pixels of zero padding for the random crop."""
    resized_crop: float = 0.0
    """Random resized crop of at least this share of the area (ImageNet: 0.08), in place of crop_padding; 0 is off."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation change by a random factor of 1 ± this (0.4 is common); 0 is off."""
    rand_augment: int = 0
    """RandAugment: two operations of this magnitude, up to 30 (9 is common; arXiv:1909.13719), an image; 0 is off."""
    cutout: int = 0
    """Side of the square set to the mean in each image (DeVries & Taylor, arXiv:1708.04552); 0 is off."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al., arXiv:1710.09412); 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix's Beta distribution (Yun et al., arXiv:1905.04899); 0 is off."""
    limit: int | None = None
    """Use only the first N images of the training split and of the test split."""
    validation: int | None = None
    """Hold N training images out, the same share of each class, and evaluate on them; on the test split once."""
    validation_seed: int = 0
    """Which images are held out. Not `seed`: runs of all seeds hold out the same ones."""
    drop_last: bool = True
    """Skip the last, smaller global batch of an epoch (other images each epoch). False: train on it."""

    @property
    def evaluated_split(self) -> str:
        """The split of evaluations during training, on which the best one is chosen: validation or test."""
        return "test" if self.validation is None else "validation"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Duration, batch size, precision."""

    epochs: int = 40
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step over all processes (the global batch)."""
    max_steps: int | None = None
    """End the run after N steps. Schedules still follow `epochs`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32 (a GPU multiplies in TF32 unless reduce=exact), or autocast to bf16 or fp16 (fp16 with loss scaling)."""
    compile: bool = False
    """torch.compile the network."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """torch.compile's mode. On a GPU the other two replay CUDA graphs."""
    clip_norm: float | None = None
    """Clip the gradient of the global batch to this L2 norm."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread over all classes."""
    loss: str | None = None
    """Loss in place of cross-entropy, package.module:function(logits, targets) (docs/python.md#a-loss)."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights with this decay per step, and evaluate it too."""
    eval_every_epochs: float = 1.0
    """Evaluate every N epochs (fractions allowed), and at the end."""
    eval_batch_size: int = 500
    """Images per forward pass of an evaluation. Exact results of evaluations depend on it."""
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
    """Sharding of the global batch, and reduction."""

    shards: int = 8
    """Parts of the global batch; the unit of work, batch statistics and randomness. At most this many processes."""
    reduce: Literal["fast", "exact"] = "fast"
    """fast: DDP's overlapped all-reduce; exact: one fixed tree, the same bits on any number of processes."""
    engine: Literal["ddp", "deepspeed"] = "ddp"
    """Back end of training."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage, with the DeepSpeed engine."""
    offload: Literal["none", "optimizer", "param", "all"] = "none"
    """ZeRO-Offload: what is kept in host memory. optimizer needs zero 1 or more, param and all need zero 3."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses the GPU if there is one."""
    threads: int | None = None
    """CPU threads per process. Default: the machine's cores divided by its processes; 1 with reduce=exact."""
    timeout_s: float = 600.0
    """Seconds after which a collective without all processes fails the run."""
    guard_every_steps: int = 200
    """Compare a hash of the weights between processes every N steps, and at every save; 0: only at saves."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: where, how often, how many."""

    url: FilePath | None = None
    """Folder or fsspec URL (s3://, sftp://, …). Default: checkpoints/ in the run folder."""
    every_steps: int | None = None
    """Save every N steps. With neither this nor `every_minutes`: once per epoch."""
    every_minutes: float | None = None
    """Save every N minutes."""
    keep: int = 3
    """Number of newest checkpoints to keep."""
    keep_every_steps: int | None = None
    """Also keep every checkpoint whose step is a multiple of this."""
    keep_best: bool = True
    """Keep the checkpoint with the best accuracy: on the validation split, or without one on the test split."""
    resume: FilePath = "auto"
    """auto: the newest valid one; never; a step; or the URL of another run's checkpoint for initial weights."""
    resume_classes: Literal["same", "any"] = "same"
    """any: when starting from another run's weights, its classifier may have another number of classes."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Options of the fsspec file system (endpoint, credentials). Secrets in them are never written or logged."""
    stage_dir: FilePath | None = None
    """Node-local folder for saves before their upload, if `url` is remote. Default: below the temporary folder."""
    stage_keep: int = 2
    """Maximum number of checkpoints on the local stage."""
    deadline_s: float = 600.0
    """Seconds that one save may take, retries included, before it is reported as failed."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Progress, metrics and logs."""

    logdir: FilePath | None = None
    """Folder or URL of the TensorBoard log. Default: tensorboard/ in the run folder."""
    every_steps: int = 20
    """Log training metrics every N steps."""
    histograms_every_steps: int = 500
    """Histograms of weights and gradients in TensorBoard every N steps; 0: none."""
    prometheus_file: FilePath | None = None
    """File for node exporter's textfile collector, such as /var/lib/node_exporter/run.prom."""
    trackers: tuple[str, ...] = ()
    """Trackers that get what TensorBoard gets: wandb, mlflow, or others that packages offer (docs/trackers.md)."""
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
