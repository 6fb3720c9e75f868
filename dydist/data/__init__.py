"""Images: what they are, who sees which when, and how they reach the device.

- `ImageDataset`, `open_dataset`: CIFAR, digits, synthetic. `cifar`, `unpickle`: the published files, read safely;
  `store`, `cache`: converted once a node; `download`; `builtin`: what needs no files.
- `description`: what a network has to know of its data set, written into checkpoints.
- `splits`: both splits and their order, as a run has them. `order`: which images belong to which shard of which step.
- `augment` (imports torch): crop, flip, cutout, mixup, cutmix.
- `loader.ShardedLoader` (imports torch): a process's shards, ready on its device, one step ahead. `pinned`: arrays on
  their way there. `torchvision_shim`: torchvision where its operators do not load.
"""

from dydist.data.dataset import ImageDataset, open_dataset

__all__ = ["ImageDataset", "open_dataset"]
