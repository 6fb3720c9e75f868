"""Data sets, the order of images, augmentation, and loading to the device.

- `ImageDataset`, `open_dataset` (`dataset`): the data sets of `dydist.config.data_sets`
- CIFAR: `cifar`, `unpickle`: safe reading of the published files; `prepare_cifar`: conversion; `download`
- folders of images: `folder` finds the files, `convert` converts them (`prepare_folder`), `picture` reads one
- `arrays`: .npz files, and the user's own functions
- `cache`: converted arrays on disk, once per node; `cache_places`: where. `builtin`: data sets without files
- `description`: the properties of a data set that a network needs, saved in checkpoints.
- `splits`: a run's splits and their order. `order`: the images of each shard of each step.
- `augment` (imports torch): crop, flip, cutout, mixup, cutmix; `photos`: resized crop, colours; `rand_augment`.
- `loader.ShardedLoader` (imports torch): a process's shards on its device, one step ahead. `pinned`: page-locked
  tensors. `torchvision_shim`: imports torchvision if its operators do not load.
"""

from dydist.data.dataset import ImageDataset, open_dataset

__all__ = ["ImageDataset", "open_dataset"]
