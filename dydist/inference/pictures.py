"""Finds image files by name, folder or pattern, and reads them as square RGB images for a network."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
"""Suffixes of the files used in a folder. A file given by name is read whatever its suffix."""


class PictureError(Exception):
    """An image file cannot be used. The message says why."""


def find_pictures(given: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(path, None) for each image file, or (argument, problem), in order.

    A folder means its PNG and JPEG files, recursively, without hidden ones and those that macOS adds to archives
    (`._IMG.png`, `__MACOSX`); a pattern (`*`, `?`, `[…]`, `**`) means the files that match.
    """
    for one in given:
        if os.path.isdir(one):
            inside = sorted(
                str(path)
                for path in Path(one).rglob("*")
                if path.suffix.lower() in SUFFIXES and not _hidden(path.relative_to(one)) and path.is_file()
            )
            yield from ((path, None) for path in inside)
            if not inside:
                yield one, f"the folder holds no {' or '.join(SUFFIXES)} file"
        elif os.path.lexists(one) or not glob.has_magic(one):
            yield one, None
        else:
            matched = sorted(path for path in glob.glob(one, recursive=True) if os.path.isfile(path))
            yield from ((path, None) for path in matched)
            if not matched:
                yield one, "the pattern matches no file"


def _hidden(inside: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)


def read_picture(path: str, side: int) -> np.ndarray:
    """Read a PNG or JPEG file of any size as uint8 RGB [3, side, side].

    Applies the EXIF orientation; converts grey, palette, CMYK and 16-bit images to RGB; puts transparent pixels on
    white; scales the largest central square (bicubic, antialiased). An RGB image of `side` × `side` pixels is
    returned unchanged. Raises PictureError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_rgb(upright), (side, side), method=Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise PictureError("there is no such file") from None
    except Image.UnidentifiedImageError:
        raise PictureError("not a PNG or JPEG image") from None
    except Exception as error:  # decoders raise nearly any exception for damaged files
        raise PictureError(f"cannot be read: {error}") from error
    return np.asarray(square).transpose(2, 0, 1).copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        return Image.fromarray(
            (np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    return image.convert("RGB")
