"""Image files as the arrays that a model takes: PNG, JPEG, whatever pillow reads, and IDX files of many images."""

from __future__ import annotations

import glob
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.data.sources.idx import read_idx
from trainer.data.spec import Box
from trainer.errors import UsageError
from trainer.grammars import MAX_PIXELS

IDX_MAGIC, GZIP_MAGIC = b"\0\0\x08\x03", b"\x1f\x8b"
TURNS = {  # what makes a picture upright that EXIF gives this Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # the tag of EXIF
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of pillow, by depth
# Of pillow; others, as EPS, start other programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

# `open_upright` has a limit of its own. For good, because `catch_warnings` is not for several threads.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Picture(NamedTuple):
    """An image to classify, or why it is none."""

    name: str
    image: np.ndarray | None  # uint8 [height, width, depth]
    error: str = ""


def read_pictures(
    names: Sequence[str],
    *,
    shape: tuple[int | None, int | None, int],
    resize: str,
    invert: bool,
    reading: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Picture]:
    """Reads images in the order of their names; one that cannot be read comes with its error.

    Args:
      names: paths, directories of images, patterns as `*.png`, or `-` for standard input.
      shape: height, width, depth of the model's images; None: of any size, and nothing is resized.
      resize: stretch: to that shape; pad: keeping the proportions, on black; no: another size is an error.
      invert: turn dark on light into light on dark.
      reading: is entered while standard input is read, which may take for ever.

    Raises:
      UsageError: the model's images are none that pillow can make.
    """
    if shape[2] not in MODES:
        raise UsageError(f"the model takes images of depth {shape[2]}; files can only be turned into 1, 3 or 4")
    for path in (path for name in names for path in _expand(name)):
        try:
            for name, image in _read_stdin(reading) if path == "-" else _read(path):
                yield Picture(name, _fit(image, shape, resize, invert))
        except Exception as error:  # Damaged files make pillow's decoders raise almost anything.
            yield Picture(path, None, describe_error(error))


def to_arrays(images: Sequence[Any], shape: tuple[int | None, int | None, int]) -> list[np.ndarray]:
    """Makes what a model takes of paths and arrays: uint8 [height, width, depth] each.

    Args:
      images: paths of picture files, which are stretched where the model takes one size; or arrays, uint8
        [height, width] or [height, width, depth].
      shape: of the model's images; None: of any size.

    Raises:
      UsageError: a file cannot be read, or an array is of another type or shape.
    """
    if isinstance(images, str | os.PathLike):
        raise UsageError(f"images is {images!r}; wanted a list of paths or arrays")
    found = []
    for number, image in enumerate(images):
        if isinstance(image, str | os.PathLike):
            for picture in read_pictures([os.fspath(image)], shape=shape, resize="stretch", invert=False):
                if picture.image is None:
                    raise UsageError(f"{picture.name}: {picture.error}")
                found.append(picture.image)
            continue
        array = np.asarray(image)
        array = array[..., np.newaxis] if array.ndim == 2 else array
        fits = array.ndim == 3 and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
        if array.dtype != np.uint8 or not fits:
            wanted = "x".join(str(size or "any") for size in shape)
            raise UsageError(
                f"image {number} is {array.dtype} {list(array.shape)}; wanted uint8 of {wanted}, or a path"
            )
        found.append(array)
    if not found:
        raise UsageError("there are no images")
    return found


def _expand(name: str) -> list[str]:
    if Path(name).is_dir():
        return sorted(str(path) for path in Path(name).iterdir() if path.is_file() and not path.name.startswith("."))
    if name == "-" or Path(name).exists():
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207  (takes absolute patterns too)


def _read_stdin(reading: Callable[[], AbstractContextManager[None]]) -> Iterator[tuple[str, Image.Image]]:
    with reading():
        data = sys.stdin.buffer.read()
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield from ((name.replace(file.name, "-"), image) for name, image in _read(file.name))


def _read(path: str) -> Iterator[tuple[str, Image.Image]]:
    """Yields the one image of a file, or those of an IDX file with their numbers."""
    with Path(path).open("rb") as opened:
        head = opened.read(4)
    if head == IDX_MAGIC or head.startswith(GZIP_MAGIC):
        for number, pixels in enumerate(read_idx(Path(path), 3)):
            yield f"{path}[{number}]", Image.fromarray(pixels)
        return
    yield path, open_upright(Path(path).read_bytes())


def open_upright(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image file, turned as EXIF says.

    Raises:
      Exception: of almost any class, from pillow's decoders, where it is damaged; `describe_error` says why.
    """
    return open_with_orientation(data, max_pixels=max_pixels)[0]


def open_with_orientation(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, int]:
    """Decodes an image file as `open_upright`; returns how EXIF says it lies, too, as `read_orientation`."""
    if not data:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {max_pixels:,} pixels") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"it has more than {max_pixels:,} pixels, {image.width} x {image.height}")
        image.load()
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format
        return upright, _orientation_of(image)


def decode_stored(data: bytes, orientation: int, *, depth: int) -> np.ndarray:
    """Decodes a JPEG or PNG that a record holds: uint8 [height, width, depth], turned as EXIF numbers it.

    Raises:
      Exception: of almost any class, from pillow's decoders, where it is damaged; `describe_error` says why.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        turned = image.transpose(TURNS[orientation]) if orientation in TURNS else image
        return np.asarray(turned.convert(MODES[depth]), np.uint8).reshape(turned.height, turned.width, depth)


def _fit(image: Image.Image, shape: tuple[int | None, int | None, int], resize: str, invert: bool) -> np.ndarray:
    height, width, depth = shape
    image = flatten(image).convert(MODES[depth])
    if invert:
        image = ImageOps.invert(image.convert("RGB")).convert(MODES[depth])
    if height and width and image.size != (width, height):
        if resize == "no":
            raise ValueError(f"it is {image.width}x{image.height}, the model takes {width}x{height}; see --resize")
        fit = ImageOps.pad if resize == "pad" else Image.Image.resize
        image = fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, depth)


def flatten(image: Image.Image) -> Image.Image:
    """Makes 8 bits of gray of 16, the upper ones of those that are used, and lays what is transparent on white.

    A camera of 12 bits uses 0..4095: the upper 8 of 16 bits would be all but black.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError(f"its pixels are of mode {image.mode}, wanted 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        num_bits = max(8, int(pixels.max()).bit_length())
        return Image.fromarray((pixels >> (num_bits - 8)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def is_kept(image: Image.Image) -> bool:
    """Does TensorFlow decode the file of an image as pillow does: JPEG or PNG, no gray of 16 bits, nothing transparent?

    The colours of CMYK are the wrong way round for one of both where Adobe's marker is missing.
    """
    modes = {"JPEG": ("L", "RGB", "CMYK"), "MPO": ("L", "RGB", "CMYK"), "PNG": ("L", "RGB", "P")}
    if image.mode not in modes.get(image.format or "", ()) or image.has_transparency_data:
        return False
    return image.mode != "CMYK" or "adobe" in image.info


def read_orientation(data: bytes) -> int:
    """Reads EXIF's Orientation: 1 to 8, and 1 where there is none."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _orientation_of(image)


def _orientation_of(image: Image.Image) -> int:
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in TURNS else 1


def turn_box(box: Box, orientation: int) -> Box:
    """Turns a box, in fractions of a picture's sides, as EXIF turns the picture (`TURNS`)."""
    ymin, xmin, ymax, xmax = box
    if orientation in (5, 6, 7, 8):  # Rows become columns.
        ymin, xmin, ymax, xmax = xmin, ymin, xmax, ymax
    if orientation in (2, 3, 6, 7):
        xmin, xmax = 1 - xmax, 1 - xmin
    if orientation in (3, 4, 7, 8):
        ymin, ymax = 1 - ymax, 1 - ymin
    return Box(ymin, xmin, ymax, xmax)


def as_png(image: Image.Image) -> bytes:
    """Encodes an image without loss, with what is transparent on white."""
    file = io.BytesIO()
    flat = flatten(image)
    (flat if flat.mode == "L" else flat.convert("RGB")).save(file, "PNG")
    return file.getvalue()


def describe_error(error: BaseException) -> str:
    """Says why an image cannot be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image that can be read"  # Pillow's own text names an object.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).partition(", file=")[0]
