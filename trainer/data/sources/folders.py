"""Pictures in a folder for each class: found, looked at, and split."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from trainer.data.pictures import FORMATS, describe_error, flatten, is_kept, open_with_orientation, turn_box
from trainer.data.sources.splitting import SPLIT_NAMES, TRAIN
from trainer.data.spec import CLASS, Box, DataError, Label

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}  # of what calls itself a picture
# Pictures that a thread takes at once, and how many of such groups are decoded before they are asked for.
AT_ONCE, AHEAD = 8, 8
# Threads take twice as long as one for files of 6 KB (128 x 128), because they wait for each other at every call.
SMALL_BYTES, SAMPLE = 32 << 10, 100


class Found(NamedTuple):
    """A picture of a class folder."""

    path: Path
    label: Label
    split: str  # empty where the source tells none
    boxes: tuple[Box, ...] = ()  # of the file's pixels, before EXIF turns them
    in_pixels: bool = False  # and not fractions of its sides


class Looked(NamedTuple):
    """What is known of a picture that was decoded once."""

    found: Found
    size: tuple[int, int]  # height, width, upright
    is_grey: bool
    format: str
    digest: str  # sha256 of the file
    orientation: int = 1  # of the file, as EXIF numbers it
    is_kept: bool = False  # TensorFlow decodes the file as pillow does
    boxes: tuple[Box, ...] = ()  # of the upright picture, in fractions
    copy: int = 0  # of the same picture in the data set
    num_bytes: int = 0  # of the file

    error: str = ""  # why it is no picture

    @property
    def place(self) -> str:
        """Returns what orders pictures as if by chance."""
        return hashlib.sha256(f"{self.digest} {self.copy}".encode()).hexdigest() if self.copy else self.digest


class Folder(NamedTuple):
    """What lies in a folder of class folders, or is named in a list."""

    class_names: tuple[str, ...]  # or what the numbers are of
    pictures: list[Found]
    skipped: list[str]  # a line each
    label_kind: str = CLASS

    @property
    def has_boxes(self) -> bool:
        return any(picture.boxes for picture in self.pictures)


def find_pictures(source: Path) -> Folder:
    """Finds the pictures of `CLASS/*`, or of `train|val|validation|test/CLASS/*`; in folders of these too.

    Hidden files, and files that neither are nor call themselves pictures, are skipped.

    Raises:
      DataError: there are no class folders, or no pictures in them.
    """
    folders = _folders_of(source)
    splits = {SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    if folders and "" not in splits:
        places = [(SPLIT_NAMES[folder.name.lower()], inner) for folder in folders for inner in _folders_of(folder)]
    else:
        places = [("", folder) for folder in folders]
        others = [folder.name for folder in folders if folder.name.lower() not in SPLIT_NAMES]
        if any(folder.name.lower() == TRAIN for folder in folders):
            raise DataError(
                f"{source} holds {others[0]} beside {TRAIN}: wanted folders of splits or of classes, not both; "
                "move what holds no pictures away"
            )
    names = tuple(sorted({folder.name for _, folder in places}))
    if not names:
        raise DataError(f"{source} holds no folders; wanted one for each class, as {source}/CLASS/picture.jpg")
    unreadable = [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if unreadable:
        raise DataError(f"{source / unreadable[0]}: the name of a class must be UTF-8; rename the folder")
    pictures: list[Found] = []
    skipped: list[str] = []
    for split, folder in places:
        label = names.index(folder.name)
        pictures += [Found(path, label, split) for path in _files_below(folder, skipped, set())]
    if not pictures:
        raise DataError(f"{source} holds no pictures in its {len(names)} folders ({', '.join(names[:5])} ...)")
    return Folder(names, pictures, skipped)


def _folders_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def _files_below(folder: Path, skipped: list[str], above: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        skipped.append(f"{folder}: a link back to {real}")
        return
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    for path in paths:
        if path.name.startswith("."):
            skipped.append(f"{path}: hidden")
        elif path.is_dir():
            yield from _files_below(path, skipped, above | {real})
        elif path.suffix.lower() in SUFFIXES or _is_picture(path):
            yield path
        else:
            skipped.append(f"{path}: no picture")


def _is_picture(path: Path) -> bool:
    """Recognizes a picture by its head, whatever its name says."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Of pillow's decoders, of almost any class.
        return False


def look_at(found: Found, max_pixels: int) -> Looked:
    """Decodes a picture once."""
    try:
        if found.path.exists() and not found.path.is_file():
            raise ValueError("it is no regular file")
        data = found.path.read_bytes()
        image, orientation = open_with_orientation(data, max_pixels=max_pixels)
        flatten(image)
        return Looked(
            found,
            (image.height, image.width),
            image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
            image.format or "",
            hashlib.sha256(data).hexdigest(),
            orientation,
            is_kept(image),
            _upright_boxes(found, image.height, image.width, orientation),
            num_bytes=len(data),
        )
    except Exception as error:  # Damaged files make pillow's decoders raise almost anything.
        return Looked(found, (0, 0), False, "", "", error=describe_error(error))


def _upright_boxes(found: Found, height: int, width: int, orientation: int) -> tuple[Box, ...]:
    """Makes fractions of the boxes of a picture, whose upright sides these are, and turns them with it.

    Raises:
      ValueError: one lies outside.
    """
    if orientation >= 5:  # What is upright lies on its side in the file.
        height, width = width, height
    sides = (height, width) if found.in_pixels else (1, 1)
    boxes = tuple(
        Box(box.ymin / sides[0], box.xmin / sides[1], box.ymax / sides[0], box.xmax / sides[1]) for box in found.boxes
    )
    for box, given in zip(boxes, found.boxes, strict=True):
        if max(box) > 1:
            raise ValueError(
                f"the box {tuple(given)} (ymin, xmin, ymax, xmax) lies outside of {width} x {height} pixels"
            )
    return tuple(turn_box(box, orientation) for box in boxes)


@contextmanager
def open_executor(pictures: Sequence[Found]) -> Iterator[Executor | None]:
    """Opens threads that decode pictures; none where the files are so small that Python is most of the work."""
    known = [found.path.stat().st_size for found in pictures[:SAMPLE] if found.path.is_file()]
    if known and sum(known) / len(known) < SMALL_BYTES:
        yield None
        return
    with ThreadPoolExecutor() as executor:
        yield executor


def in_order(executor: Executor | None, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Calls a function in threads, a little ahead; yields what it returns in the order of the items."""
    if executor is None:
        yield from map(function, items)
        return
    left = iter(items)
    waiting: deque[Future[list[Any]]] = deque()
    while (some := list(itertools.islice(left, AT_ONCE))) or waiting:
        if some:
            waiting.append(executor.submit(lambda group: list(map(function, group)), some))
        if not some or len(waiting) == AHEAD:
            yield from waiting.popleft().result()


def duplicates(digests: Iterable[str]) -> list[list[int]]:
    """Groups the places of pictures whose files are the same, byte for byte."""
    groups: dict[str, list[int]] = {}
    for place, digest in enumerate(digests):
        groups.setdefault(digest, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def commonest(values: Iterable[object], count: int = 3) -> str:
    """Says which values are the most frequent: `JPEG 4,317, PNG 2`."""
    return ", ".join(f"{value} {number:,}" for value, number in Counter(values).most_common(count))
