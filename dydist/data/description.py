"""The properties of a data set that a network needs for use without the images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dydist.data.dataset import ImageDataset

FILE = "data.json"
"""Name of the file in a run's folder with its description."""


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """Written into every checkpoint's state.json as `data`.

    `train_images`: number of images that the run trains on. `side`: height and width in pixels. `mean`, `std`: per
    channel, as in `ImageDataset`. `content`: a hash of the training split's images and labels in order; None from
    dydist 0.1.
    """

    train_images: int
    side: int
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    content: str | None = None

    @classmethod
    def of(cls, train_set: ImageDataset, *, held_out: int = 0) -> DataDescription:
        """Describe a training split with `held_out` images that are never trained on. Reads all of it, which takes a
        fifth of a second for CIFAR."""
        return cls(
            train_images=len(train_set) - held_out,
            side=train_set.images.shape[-1],
            classes=train_set.classes,
            mean=train_set.mean,
            std=train_set.std,
            content=_hash(train_set),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataDescription:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        return cls(
            train_images=values["train_images"],
            side=values["side"],
            classes=tuple(values["classes"]),
            mean=_three(values["mean"]),
            std=_three(values["std"]),
            content=values.get("content"),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    def differences(self, before: Mapping[str, Any]) -> Iterator[str]:
        """A phrase for each value that differs from another description's `to_dict`; missing values are ignored."""
        now = self.to_dict()
        names = {"train_images": "training images", "side": "pixels a side"}
        for name in now:
            was, here = before.get(name), now[name]
            if was is None or here is None or _plain(was) == _plain(here):
                continue
            if name == "content":
                yield "the images or labels are others, or in another order"
            elif name == "classes" and len(was) != len(here):
                yield f"{len(here)} classes, not {len(was)}"
            elif name in names:
                yield f"{here} {names[name]}, not {was}"
            else:
                yield f"{name} {_plain(here)}, not {_plain(was)}"


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hash(dataset: ImageDataset) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if dataset.content is not None:
        digest.update(dataset.content.encode())
        return digest.hexdigest()
    for array in (dataset.images, dataset.labels):
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()
