"""Images as arrays uint8 [H, W, 3] and as PNG: grids of images, and tables of numbers as colours."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from tensorboard.compat.proto.summary_pb2 import Summary

_STOPS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64
)
"""Five points of viridis, which is monotonic in grey and suited to colour-blind readers (Nuñez et al., 2018)."""


def colours(values: np.ndarray) -> np.ndarray:
    """Values 0 to 1 of any shape → colours uint8 [..., 3]; NaN is grey."""
    known = np.nan_to_num(np.clip(values, 0.0, 1.0))
    position = known * (len(_STOPS) - 1)
    low = np.minimum(position.astype(int), len(_STOPS) - 2)
    part = (position - low)[..., None]
    mixed = _STOPS[low] * (1 - part) + _STOPS[low + 1] * part
    mixed[np.isnan(values)] = 128
    rounded: np.ndarray = np.rint(mixed).astype(np.uint8)
    return rounded


def grid(images: np.ndarray, captions: Sequence[str] = (), *, columns: int = 8) -> np.ndarray:
    """Images uint8 [N, 3, H, W] in a grid, enlarged to at least 64 pixels, with a caption under each."""
    count, _, height, width = images.shape
    scale = max(1, -(-64 // width))
    strip = 12 * max((caption.count("\n") + 1 for caption in captions), default=0)
    columns = min(columns, max(1, count))
    cell_h, cell_w = height * scale + strip + 2, width * scale + 2
    canvas = Image.new("RGB", (columns * cell_w, -(-count // columns) * cell_h), (32, 32, 32))
    draw = ImageDraw.Draw(canvas)
    for number, image in enumerate(images):
        x, y = number % columns * cell_w, number // columns * cell_h
        tile = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        canvas.paste(tile.resize((width * scale, height * scale), Image.Resampling.NEAREST), (x + 1, y + 1))
        if captions:
            draw.multiline_text(
                (x + 1, y + height * scale + 1), captions[number], fill=(235, 235, 235), spacing=1
            )
    return np.asarray(canvas)


def table(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str] = (), *, cell: tuple[int, int] = (24, 24)
) -> np.ndarray:
    """Values 0 to 1 [R, C] as coloured cells of `cell` = (width, height) pixels, with names of rows and columns.

    With `columns` each cell also shows its value in per cent.
    """
    left = 8 + 6 * max((len(name) for name in rows), default=0)
    top = 14 if columns else 2
    body = colours(values).repeat(cell[1], 0).repeat(cell[0], 1)
    canvas = Image.new("RGB", (left + body.shape[1] + 2, top + body.shape[0] + 2), (255, 255, 255))
    canvas.paste(Image.fromarray(body), (left, top))
    draw = ImageDraw.Draw(canvas)
    step = max(1, len(rows) and len(rows) * 11 // max(1, body.shape[0]))
    for number, name in enumerate(rows):
        if number % step == 0:
            draw.text((4, top + number * cell[1] + (cell[1] - 11) / 2), name, fill=(0, 0, 0))
    if columns:
        for (row, column), value in np.ndenumerate(values):
            if value >= 0.005:
                position = (left + column * cell[0] + 6, top + row * cell[1] + (cell[1] - 11) / 2)
                draw.text(position, f"{value:.0%}", fill=(0, 0, 0) if value > 0.5 else (255, 255, 255))
    for number, name in enumerate(columns):
        draw.text((left + number * cell[0] + 2, 1), name[: max(1, cell[0] // 6)], fill=(0, 0, 0))
    return np.asarray(canvas)


def png(image: np.ndarray) -> bytes:
    """An array uint8 [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def image_value(tag: str, image: np.ndarray) -> Summary.Value:
    """An array uint8 [H, W, 3] as a TensorBoard image."""
    height, width, _ = image.shape
    encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png(image))
    return Summary.Value(tag=tag, image=encoded)
