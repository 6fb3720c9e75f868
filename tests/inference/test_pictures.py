"""Image files of every kind, and which files are meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dydist.data.picture import PictureError, read_picture
from dydist.inference.pictures import find_pictures


@pytest.fixture
def pixels() -> np.ndarray:
    """A picture without symmetry, uint8 [32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def read(image: Image.Image, path: Path, side: int = 32, **options: object) -> np.ndarray:
    image.save(path, **options)
    found = read_picture(str(path), side)
    assert (found.dtype, found.shape) == (np.uint8, (3, side, side))
    return found


def test_a_png_of_the_right_size_comes_back_byte_for_byte(pixels: np.ndarray, tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read(Image.fromarray(pixels), tmp_path / "a.png"), pixels.transpose(2, 0, 1)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_exif_says(orientation: int, pixels: np.ndarray, tmp_path: Path) -> None:
    """Every way a camera may be held (EXIF 2.3, tag 274), undone in the file and turned back when it is read."""
    undo = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](pixels)))
    found = read(stored, tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))


def test_every_mode_becomes_rgb(pixels: np.ndarray, tmp_path: Path) -> None:
    grey = pixels[:, :, 0]
    expected = np.broadcast_to(grey, (3, 32, 32))
    np.testing.assert_array_equal(read(Image.fromarray(grey), tmp_path / "grey.png"), expected)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read(deep, tmp_path / "grey16.png"), expected)
    palette = Image.fromarray(pixels).quantize(16)
    rgb = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(palette, tmp_path / "palette.png"), rgb)
    alpha = np.dstack([pixels, np.where(np.arange(32) < 16, 255, 0)[None].repeat(32, 0).astype(np.uint8)])
    found = read(Image.fromarray(alpha), tmp_path / "alpha.png")
    np.testing.assert_array_equal(found[:, :, :16], pixels.transpose(2, 0, 1)[:, :, :16])
    assert (found[:, :, 16:] == 255).all()
    flat = Image.new("CMYK", (50, 40), (0, 255, 255, 0))
    assert read(flat, tmp_path / "cmyk.jpg").mean((1, 2)) == pytest.approx([255, 0, 0], abs=3)


def test_any_size_is_cut_to_the_middle_and_scaled(tmp_path: Path) -> None:
    wide = np.zeros((60, 200, 3), dtype=np.uint8)
    wide[:, 70:130] = (200, 100, 50)  # the square in the middle
    found = read(Image.fromarray(wide), tmp_path / "wide.png")
    inside = found[:, :, 2:-2]  # at the cut, scaling sees the neighbours
    assert (inside == np.array([200, 100, 50])[:, None, None]).all()
    assert (read(Image.fromarray(wide[:1, 100:101]), tmp_path / "dot.png", side=8)[0] == 200).all()
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    smooth = read(Image.fromarray(checks), tmp_path / "checks.png")
    assert abs(smooth.astype(int) - 127).max() <= 2, "not antialiased"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"hello", "not a PNG, JPEG or WebP image"),
        ("empty.jpg", b"", "not a PNG, JPEG or WebP image"),
        ("gif.png", b"GIF89a" + bytes(40), "not a PNG, JPEG or WebP image"),
        ("gone.png", None, "there is no such file"),
    ],
)
def test_what_is_no_picture_is_said(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=said):
        read_picture(str(tmp_path / name), 32)


def test_a_large_jpeg_is_the_same_to_the_eye_as_its_pixels(tmp_path: Path) -> None:
    """It is decoded at a fraction of its size."""
    y, x = np.indices((640, 960))
    smooth = np.stack([x / 960, y / 640, (x + y) / 1600], axis=2) * 255
    image = Image.fromarray(smooth.astype(np.uint8))
    exact = read(image, tmp_path / "a.png").astype(int)
    assert abs(read(image, tmp_path / "a.jpg", quality=95) - exact).max() <= 4
    assert abs(read(image, tmp_path / "a.webp", quality=95) - exact).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_broken_bytes_raise_one_error_or_none(suffix: str, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match="cannot be read"):
        read_picture(str(path), 32)
    said = set()
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            assert read_picture(str(path), 32).shape == (3, 32, 32)
        except PictureError as error:
            said.add(str(error))
    assert "" not in said


def test_files_folders_and_patterns(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("in/b.png", "in/a.JPG", "in/deep/c.jpeg", "in/notes.txt", "x[1].png"):
        (tmp_path / name).write_bytes(b"")
    given = [str(tmp_path / one) for one in ("in", "in/*.png", "x[1].png", "gone.png", "empty", "z*")]
    found = [(path.removeprefix(f"{tmp_path}/"), problem) for path, problem in find_pictures(given)]
    assert found == [
        ("in/a.JPG", None),
        ("in/b.png", None),
        ("in/deep/c.jpeg", None),
        ("in/b.png", None),
        ("x[1].png", None),
        ("gone.png", None),
        ("empty", "the folder holds no .png or .jpg or .jpeg or .webp file"),
        ("z*", "the pattern matches no file"),
    ]


def test_a_folder_stands_for_what_a_person_put_there(tmp_path: Path) -> None:
    """macOS adds ._NAME files to archives and foreign disks; they are no pictures."""
    for name in ("a.png", "._a.png", ".hidden.png", "__MACOSX/b.png", ".cache/c.png", "in/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(path).relative_to(tmp_path).as_posix() for path, _ in find_pictures([str(tmp_path)])]
    assert found == ["a.png", "in/d.jpg"]
    assert [path for path, _ in find_pictures([str(tmp_path / "._a.png")])] == [str(tmp_path / "._a.png")]
