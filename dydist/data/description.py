"""What a network has to know of its data set, so that it can be used where the images are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dydist.data.cifar import LAYOUTS
from dydist.data.dataset import ImageDataset


def known_sizes(name: str) -> tuple[int, int]:
    """Number of classes, and height and width in pixels, of a data set by its name alone."""
    classes = LAYOUTS[name].num_classes if name in LAYOUTS else 10
    return classes, 8 if name == "digits" else 32


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """Written into every checkpoint's state.json as `data`.

    `train_images`: images of the training split that the run saw. `side`: height and width in pixels. `mean`, `std`:
    of each channel, as `ImageDataset` has them.
    """

    train_images: int
    side: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train_set: ImageDataset) -> DataDescription:
        """What the training split tells."""
        return cls(
            train_images=len(train_set),
            side=train_set.images.shape[-1],
            classes=train_set.classes,
            mean=train_set.mean,
            std=train_set.std,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataDescription:
        """Back from `to_dict`, through JSON or not."""
        return cls(
            train_images=values["train_images"],
            side=values["side"],
            classes=tuple(values["classes"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return asdict(self)
