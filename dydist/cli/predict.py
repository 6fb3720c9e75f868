"""`dydist predict`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from dydist.cli.checkpoint import Url
from dydist.cli.trained import describe, note, open_trained, print_json
from dydist.config.types import Count, FilePath, Index
from dydist.errors import EXIT_DONE, EXIT_USAGE, UserError
from dydist.text.display import show

if TYPE_CHECKING:
    import numpy as np

    from dydist.inference import Prediction


def predict(
    checkpoint: Url,
    images: Annotated[tuple[FilePath, ...], Positional, arg(metavar="IMAGES ...")],
    *,
    step: Index | None = None,
    top: Count = 5,
    attention: bool = False,
    ema: bool = False,
    data_root: FilePath | None = None,
    factory: str | None = None,
    storage_options: str = "{}",
    json: bool = False,
) -> int:
    """Predict the classes of pictures: names and probabilities, and the attention of every dynamic layer.

    PNG, JPEG and WebP of any size: turned upright by EXIF, made RGB, the largest square in the middle scaled to the
    network's size. A picture that cannot be read is reported, the others are processed, and the exit code is 2.

    Example: dydist predict runs/cifar10 cat.png holiday/ 'shots/*.jpg' --top 3

    Args:
        checkpoint: A step's folder, a place that holds several (the newest valid one is taken), or a run's folder.
        images: Files, folders (with all below them), or patterns in quotes.
        step: That step of a place.
        top: Number of classes per picture, most probable first.
        attention: Show the weights of the kernels in every dynamic layer.
        ema: Take the moving average of the weights.
        data_root: Folder of the data set, for checkpoints that do not name their classes.
        factory: package.module:function of the checkpoint that may be run here. Default: that of a run of yours.
        storage_options: fsspec options as JSON.
        json: Print JSON.
    """
    from dydist.inference import find_pictures
    from dydist.inference import predict as predict_pictures

    if not images:
        raise UserError(
            "predict: no picture was given; name files, folders, or a pattern such as 'shots/*.png'"
        )
    model = open_trained(
        checkpoint, step=step, ema=ema, options=storage_options, data_root=data_root, factory=factory
    )
    failed: list[dict[str, str]] = []
    paths: list[str] = []
    found = _read(find_pictures(images), model.data.side, paths, failed)
    results: list[dict[str, Any]] = []
    for number, prediction in enumerate(predict_pictures(model, found, top=top, attention=attention)):
        if json:
            results.append(_as_json(paths[number], prediction, attention=attention))
        else:
            _print(paths[number], prediction)
    if json:
        print_json({**describe(model), "images": results, "failed": failed})
    return EXIT_USAGE if failed else EXIT_DONE


def _read(
    found: Iterator[tuple[str, str | None]], side: int, paths: list[str], failed: list[dict[str, str]]
) -> Iterator[np.ndarray]:
    """The pictures that can be read; `paths` gains the name of each, `failed` those that cannot."""
    from dydist.data.picture import PictureError, read_picture

    for path, problem in found:
        try:
            if problem is not None:
                raise PictureError(problem)
            picture = read_picture(path, side)
        except PictureError as error:
            note(f"{path}: {error}")
            failed.append({"path": path, "error": str(error)})
        else:
            paths.append(path)
            yield picture


def _as_json(path: str, prediction: Prediction, *, attention: bool) -> dict[str, Any]:
    classes = [{"class": name, "probability": share} for name, share in prediction.probabilities.items()]
    return {"path": path, "classes": classes} | ({"attention": prediction.attention} if attention else {})


def _print(path: str, prediction: Prediction) -> None:
    shares = "  ".join(f"{name} {share:.1%}" for name, share in prediction.probabilities.items())
    show(f"{path}  {shares}")
    width = max((len(name) for name in prediction.attention), default=0)
    for name, weights in prediction.attention.items():
        show(f"    {name:<{width}}  {' '.join(f'{weight:.3f}' for weight in weights)}")


COMMANDS = {"predict": predict}
