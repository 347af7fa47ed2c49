"""A folder of pictures as a source of a conversion: looked at, split, resized, and what was found."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.table import Table
from rich.text import Text

from trainer.console import Console, bullet_list, progress
from trainer.data.pictures import flatten, open_upright
from trainer.data.sources import folders
from trainer.data.sources.folders import Looked
from trainer.data.sources.named import Source
from trainer.data.spec import SPLITS, DataError
from trainer.errors import UsageError

SHOWN = 10  # of pictures that are damaged, skipped or there twice


class Wanted(NamedTuple):
    """What a user asks of a conversion of pictures."""

    shares: tuple[float, float, float]  # of training, validation and test
    short_side: int  # to which pictures are resized; 0: as they are
    max_damaged: int  # pictures that may be left out
    max_pixels: int


def make_source(source: Path, wanted: Wanted, console: Console) -> Source:
    """Looks at every picture of a folder, and says what was found.

    Raises:
      DataError: pictures are damaged, or no split has any.
      UsageError: the pictures have several shapes.
    """
    found = folders.find_pictures(source)
    if found.skipped:
        console.say(f"skipped {_first(found.skipped)}")
    with ThreadPoolExecutor() as executor, progress(console, f"looking at {source}", len(found.pictures)) as advance:
        look = functools.partial(folders.look_at, max_pixels=wanted.max_pixels)
        pictures: list[Looked] = []
        for looked in folders.in_order(executor, look, found.pictures):
            pictures.append(looked)
            advance(1)
    pictures = _without_damaged(pictures, wanted.max_damaged, console)
    by_split: dict[str, list[Looked]] = {split: [] for split in SPLITS}
    for picture in pictures:
        by_split[folders.split_of(picture, wanted.shares)].append(picture)
    _say_found(found.class_names, by_split, console)
    for split, those in by_split.items():
        if not those:
            raise DataError(f"{source} gives no picture for {split}; --split=80/10/10 gives each split a share")
        those.sort(key=lambda picture: picture.digest)  # So that each shard holds all classes.
    shape = _shape_of(pictures, wanted.short_side)

    def read(_: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
        with ThreadPoolExecutor() as executor:
            load = functools.partial(_load, short_side=wanted.short_side, shape=shape, max_pixels=wanted.max_pixels)
            yield from folders.in_order(executor, load, by_split[split])

    sizes = {split: len(those) for split, those in by_split.items()}
    return Source(shape, found.class_names, sizes, "", read)


def _first(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return f"{len(lines):,}:{bullet_list([*lines[:SHOWN], *more])}"


def _without_damaged(pictures: list[Looked], limit: int, console: Console) -> list[Looked]:
    damaged = [f"{picture.found.path}: {picture.error}" for picture in pictures if picture.error]
    if len(damaged) > limit:
        raise DataError(f"damaged pictures, {_first(damaged)}\n--skip_corrupt={len(damaged)} leaves so many out")
    if damaged:
        console.say(f"left out, as damaged, {_first(damaged)}")
    return [picture for picture in pictures if not picture.error]


def _say_found(class_names: Sequence[str], by_split: dict[str, list[Looked]], console: Console) -> None:
    table = Table("class", *SPLITS)
    counts = {split: Counter(picture.found.label for picture in those) for split, those in by_split.items()}
    for label, name in enumerate(class_names):
        table.add_row(Text(name), *(f"{counts[split][label]:,}" for split in SPLITS))
    table.add_row("all", *(f"{len(by_split[split]):,}" for split in SPLITS))
    console.table(table)
    pictures = [picture for split in SPLITS for picture in by_split[split]]
    sizes = [f"{picture.size[1]} x {picture.size[0]}" for picture in pictures]
    console.say(f"formats: {folders.commonest(p.format for p in pictures)}; sizes: {folders.commonest(sizes)}")
    for split in SPLITS:
        missing = [name for label, name in enumerate(class_names) if by_split[split] and not counts[split][label]]
        if missing:
            console.say(f"{split} has no picture of {', '.join(missing[:SHOWN])}")
    if len(class_names) == 1:
        console.say(f"there is one class only, {class_names[0]}: nothing can be learned")
    sides = {picture.found.path: split for split, those in by_split.items() for picture in those}
    twice = [
        " = ".join(f"{picture.found.path} ({sides[picture.found.path]})" for picture in group)
        for group in folders.duplicates(pictures)
    ]
    if twice:
        console.say(f"the same picture several times, {_first(twice)}")


def _shape_of(pictures: Sequence[Looked], short_side: int) -> tuple[int, int, int]:
    sizes = Counter(resized(picture.size, short_side) for picture in pictures)
    if len(sizes) > 1:
        (height, width), count = sizes.most_common(1)[0]
        raise UsageError(
            f"the pictures have {len(sizes):,} shapes, {count:,} of {len(pictures):,} are {width} x {height}; this "
            "version stores pictures of one shape: crop them before"
        )
    return (*next(iter(sizes)), 1 if all(picture.is_grey for picture in pictures) else 3)


def resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Computes the height and width of a picture whose shorter side becomes so long; 0: as it is."""
    if not short_side:
        return size
    shorter = min(size)
    height, width = (max(1, round(side * short_side / shorter)) for side in size)
    return height, width


def _load(picture: Looked, *, short_side: int, shape: tuple[int, int, int], max_pixels: int) -> tuple[np.ndarray, int]:
    path = picture.found.path
    try:
        image = flatten(open_upright(path.read_bytes(), max_pixels=max_pixels)).convert("L" if shape[2] == 1 else "RGB")
    except Exception as error:  # Of pillow's decoders, of almost any class.
        raise DataError(f"{path} is not what it was a moment ago: {error}") from error
    if short_side:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape), picture.found.label
