"""The data sets that come with dydist. To add one, add its name and its entry here (docs/data.md).

An installed package adds its own by an entry point of the group `dydist.data_sets` (docs/extending.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dydist.errors import UserError
from dydist.user_function import load_added

DataName = Literal["cifar10", "cifar100", "digits", "synthetic", "folder", "npz", "factory"]
"""The values of `data.name`."""

_CIFAR = (
    "The weights were trained on {}, whose authors give no licence; they ask to cite A. Krizhevsky, Learning Multiple "
    "Layers of Features from Tiny Images, 2009. Its images were collected from the web: check whether your use allows "
    "for that."
)

_OWN = (
    "The weights were trained on images that are not published with dydist: their licence decides about use."
)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a data set before its images are opened.

    `opener`: `package.module:function`, called as `dydist.data.dataset.Opener`. `classes`: their number. `side`: height
    and width in pixels. `mean`, `std`: of each channel over the training images, 0..1. `flip`: whether a mirror image
    has the same class, so that training flips images. `note`: what the model card says of the images' licence. None:
    known when the images are opened.
    """

    opener: str
    classes: int | None = None
    side: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    flip: bool
    note: str


DATA_SETS: dict[DataName, DataSet] = {
    "cifar10": DataSet(
        opener="dydist.data.prepare_cifar:cifar",
        classes=10,
        side=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        flip=True,
        note=_CIFAR.format("CIFAR-10"),
    ),
    "cifar100": DataSet(
        opener="dydist.data.prepare_cifar:cifar",
        classes=100,
        side=32,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        flip=True,
        note=_CIFAR.format("CIFAR-100"),
    ),
    "digits": DataSet(
        opener="dydist.data.builtin:digits",
        classes=10,
        side=8,
        mean=(0.3052,) * 3,
        std=(0.3757,) * 3,
        flip=False,
        note="The weights were trained on the digits of Alpaydin and Kaynak (UCI, 1998), which are under CC BY 4.0.",
    ),
    "synthetic": DataSet(
        opener="dydist.data.builtin:synthetic",
        classes=10,
        side=32,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        flip=False,
        note="The weights were trained on made-up images: they are for tests and benchmarks.",
    ),
    "folder": DataSet(opener="dydist.data.prepare_folder:folder", flip=True, note=_OWN),
    "npz": DataSet(opener="dydist.data.arrays:npz", flip=True, note=_OWN),
    "factory": DataSet(opener="dydist.data.arrays:factory", flip=True, note=_OWN),
}


def data_set(name: str) -> DataSet:
    """The entry of a data set of dydist's, or of one that an installed package adds. Raises UserError."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    found = load_added("dydist.data_sets", name)
    if not isinstance(found, DataSet):
        raise UserError(
            f"data.name: no installed package adds a DataSet {name!r} to dydist.data_sets; install the one that does"
        )
    return found
