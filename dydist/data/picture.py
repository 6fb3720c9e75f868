"""Reads one image file as a square RGB image: for the conversion of image folders, and for predictions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes of the files used in a folder. A file given by name is read regardless of its suffix."""


class PictureError(Exception):
    """An image file cannot be used. The message says why."""


def read_picture(path: str, side: int) -> np.ndarray:
    """Read a PNG, JPEG or WebP file of any size as uint8 RGB [3, side, side].

    Applies the EXIF orientation; converts grey, palette, CMYK and 16-bit images to RGB; puts transparent pixels on
    white; scales the largest central square (bicubic, antialiased; a JPEG of more than twice the size is decoded at a
    fraction of it first). An RGB image of `side` × `side` pixels is
    returned unchanged. Raises PictureError.
    """
    with picture_warnings():
        return decode_picture(path, side)


@contextmanager
def picture_warnings() -> Iterator[None]:
    """The context for `decode_picture`: decompression bombs are errors, other warnings about files are not shown.

    Warnings are filtered for the whole process, so several threads must share one such context.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_picture(path: str, side: int) -> np.ndarray:
    """As `read_picture`, within `picture_warnings`; may be called by several threads."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.draft(None, (2 * side, 2 * side))  # a large JPEG is decoded at 1/2 … 1/8
            return as_square(image, side)
    except FileNotFoundError:
        raise PictureError("there is no such file") from None
    except Image.UnidentifiedImageError:
        raise PictureError("not a PNG, JPEG or WebP image") from None
    except Exception as error:  # decoders raise nearly any exception for damaged files
        raise PictureError(f"cannot be read: {error}") from error


def as_square(image: Image.Image, side: int) -> np.ndarray:
    """An open image as uint8 RGB [3, side, side], as `read_picture` says."""
    upright = ImageOps.exif_transpose(image)
    square = ImageOps.fit(_rgb(upright), (side, side), method=Image.Resampling.BICUBIC)
    return np.asarray(square).transpose(2, 0, 1).copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, which convert() would clip at 255
        return Image.fromarray(
            (np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    return image.convert("RGB")
