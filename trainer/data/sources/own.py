"""Files of pictures as a source of a conversion: looked at, split, resized, and what was found."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer.console import Console, bullet_list, progress
from trainer.data.pictures import as_png, flatten, open_upright
from trainer.data.sources import folders, lists
from trainer.data.sources.folders import Folder, Looked
from trainer.data.sources.named import Source
from trainer.data.sources.splitting import TRAIN, choose_splits, say_counts
from trainer.data.spec import CLASS, NUMBERS, SEVERAL, SPLITS, DataError, Label, RecordFields
from trainer.data.writing import BOXES, Encoded
from trainer.errors import UsageError

MAX_SIDE = 10_000
SHOWN = 10  # of pictures that are damaged, skipped or there twice


class Store(NamedTuple):
    """How pictures are stored."""

    encoded: bool  # the bytes of their files, or pixels
    short_side: int = 0  # of pixels, to which pictures are resized; 0: as they are
    paths: bool = False  # in the place of the files' bytes


def parse_store(text: str) -> Store:
    """Reads `encoded`, `paths`, `decoded` or `decoded:160`.

    Raises:
      UsageError: it is none.
    """
    if text in ("encoded", "paths"):
        return Store(encoded=True, paths=text == "paths")
    side = "0" if text == "decoded" else text.removeprefix("decoded:")
    if side.isdecimal() and (text == "decoded" or 1 <= int(side) <= MAX_SIDE):
        return Store(encoded=False, short_side=int(side))
    raise UsageError(
        f"--store={text}: wanted encoded (the files' bytes), paths (the files stay where they are), decoded (pixels), "
        "or decoded:160 (pixels, resized to that shorter side)"
    )


class Wanted(NamedTuple):
    """What a user asks of a conversion of pictures."""

    shares: tuple[float, float, float]  # of training, validation and test
    store: Store
    max_damaged: int  # pictures that may be left out
    deduplicate: bool  # leave out what is there several times, but for one
    max_pixels: int
    balance: float = 0.0  # 0: training pictures as they are; 1: all classes as often as the largest


def open_source(source: Path, wanted: Wanted, console: Console, *, is_list: bool) -> Source:
    """Finds the pictures of a folder, or of a list, as `make_source`."""
    found = lists.find_pictures(source) if is_list else folders.find_pictures(source)
    return make_source(source, found, wanted, console)


def make_source(source: Path, found: Folder, wanted: Wanted, console: Console) -> Source:
    """Looks at every picture of a source, and says what was found.

    Args:
      source: for messages.
      found: its pictures.
      wanted: of the conversion.
      console: is printed on.

    Raises:
      DataError: pictures are damaged, or no split has any.
      UsageError: the pictures have several shapes.
    """
    if found.has_boxes and not wanted.store.encoded:
        raise UsageError("boxes are kept with pictures that are stored by --store=encoded or --store=paths alone")
    if wanted.balance and found.label_kind != CLASS:
        raise UsageError("--balance is for pictures of one class each")
    if found.skipped:
        console.say(f"skipped {_first(found.skipped)}")
    with (
        folders.open_executor(found.pictures) as executor,
        progress(console, f"looking at {source}", len(found.pictures)) as advance,
    ):
        look = functools.partial(folders.look_at, max_pixels=wanted.max_pixels)
        pictures: list[Looked] = []
        for looked in folders.in_order(executor, look, found.pictures):
            pictures.append(looked)
            advance(1)
    pictures = _without_damaged(pictures, wanted.max_damaged, console)
    by_split = _split(pictures, wanted, console)
    if found.has_boxes:
        unit = "pixels" if any(picture.in_pixels for picture in found.pictures) else "fractions of 0..1"
        console.say(f"boxes: {sum(len(picture.boxes) for picture in found.pictures):,}, in {unit}")
    if found.label_kind == SEVERAL:
        console.say("labels: several of a picture, or none, joined by ;")
    _say_labels(found, by_split, source, console)
    _say_sizes(pictures, console, encoded=wanted.store.encoded)
    if wanted.balance:
        by_split[TRAIN] = _balance(found, by_split[TRAIN], wanted.balance, console)
    for those in by_split.values():
        those.sort(key=lambda picture: picture.place)  # So that each shard holds all classes.
    return (
        _encoded_source(found, pictures, by_split, wanted)
        if wanted.store.encoded
        else _decoded_source(found, pictures, by_split, wanted)
    )


def _say_labels(found: Folder, by_split: Mapping[str, list[Looked]], source: Path, console: Console) -> None:
    totals = {split: len(those) for split, those in by_split.items()}
    labels = {split: [picture.found.label for picture in those] for split, those in by_split.items()}
    if found.label_kind == NUMBERS:
        say_counts((), {split: Counter() for split in SPLITS}, source, console, totals)
        for name, values in zip(found.class_names, np.array(labels[SPLITS[0]]).T, strict=True):
            console.say(f"{name}: {values.min():g} to {values.max():g}, mean {values.mean():g}, in training")
        return
    counts: dict[str, Counter[int]] = {
        split: Counter(int(label) for each in those for label in (each if isinstance(each, tuple) else (each,)))
        for split, those in labels.items()
    }
    say_counts(found.class_names, counts, source, console, totals)


def _encoded_source(
    found: Folder, pictures: Sequence[Looked], by_split: Mapping[str, list[Looked]], wanted: Wanted
) -> Source:
    """Makes the source of pictures whose bytes are kept."""
    depth = 1 if all(picture.is_grey for picture in pictures) else 3
    heights, widths = ({picture.size[axis] for picture in pictures} for axis in (0, 1))
    height, width = (next(iter(sides)) if len(sides) == 1 else None for sides in (heights, widths))
    shape = (height, width, depth) if height and width else (None, None, depth)

    def read(_: Path, split: str) -> Iterator[Encoded]:
        with folders.open_executor([picture.found for picture in by_split[split]]) as executor:
            load = functools.partial(_encode, depth=depth, wanted=wanted)
            yield from folders.in_order(executor, load, by_split[split])

    sizes = {split: len(those) for split, those in by_split.items()}
    fields = RecordFields(path="path" if wanted.store.paths else "", boxes=BOXES if found.has_boxes else "")
    smallest = (min(heights), min(widths))
    return Source(shape, found.class_names, sizes, "", read, (), (), smallest, fields, found.label_kind)


def _encode(picture: Looked, *, depth: int, wanted: Wanted) -> Encoded:
    path = picture.found.path
    if wanted.store.paths and picture.is_kept:
        shape, place = (*picture.size, depth), os.fsencode(path.absolute())
        return Encoded(b"", picture.found.label, picture.orientation, shape, place, picture.boxes, picture.num_bytes)
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != picture.digest:
            raise ValueError("its bytes have changed")
        if not picture.is_kept:
            data = as_png(open_upright(data, max_pixels=wanted.max_pixels))
    except Exception as error:  # Of pillow's decoders, of almost any class.
        raise DataError(f"{path} is not what it was a moment ago: {error}") from error
    orientation = picture.orientation if picture.is_kept else 1
    return Encoded(data, picture.found.label, orientation, (*picture.size, depth), b"", picture.boxes)


def _decoded_source(
    found: Folder, pictures: Sequence[Looked], by_split: Mapping[str, list[Looked]], wanted: Wanted
) -> Source:
    """Makes the source of pictures of one shape, whose pixels are kept."""
    short_side = wanted.store.short_side
    shape = _shape_of(pictures, short_side)

    def read(_: Path, split: str) -> Iterator[tuple[np.ndarray, Label]]:
        with folders.open_executor([picture.found for picture in by_split[split]]) as executor:
            load = functools.partial(_load, short_side=short_side, shape=shape, max_pixels=wanted.max_pixels)
            yield from folders.in_order(executor, load, by_split[split])

    sizes = {split: len(those) for split, those in by_split.items()}
    return Source(shape, found.class_names, sizes, "", read, label_kind=found.label_kind)


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


def _split(pictures: list[Looked], wanted: Wanted, console: Console) -> dict[str, list[Looked]]:
    """Gives each picture its split; says which are there several times, and leaves all but one out where asked."""
    given = [picture.found.split for picture in pictures]
    sides = choose_splits([picture.digest for picture in pictures], given, wanted.shares, set(given))
    groups = folders.duplicates([picture.digest for picture in pictures])
    if groups:
        lines = [" = ".join(f"{pictures[place].found.path} ({sides[place]})" for place in group) for group in groups]
        across = sum(len({sides[place] for place in group}) > 1 for group in groups)
        advice = f"; {across:,} on several sides: --deduplicate keeps one" if across and not wanted.deduplicate else ""
        console.say(f"the same picture several times, {_first(lines)}{advice}")
    left_out: set[int] = set()
    if wanted.deduplicate:
        for group in groups:  # What is judged stays: the last side of the group.
            kept = max(group, key=lambda place: SPLITS.index(sides[place]))
            left_out |= {place for place in group if place != kept}
        console.say(f"left out {len(left_out):,} pictures that are there once more")
    return {
        split: [picture for place, picture in enumerate(pictures) if sides[place] == split and place not in left_out]
        for split in SPLITS
    }


def _balance(found: Folder, pictures: list[Looked], balance: float, console: Console) -> list[Looked]:
    """Repeats pictures of a class of n by (largest / n)^balance, on average; which ones follows from their bytes."""
    counts = Counter(map(_class_of, pictures))
    repeats = {label: (max(counts.values()) / count) ** balance for label, count in counts.items()}
    balanced = []
    for picture in pictures:
        whole, rest = divmod(repeats[_class_of(picture)], 1)
        # Other digits than those that have chosen the split.
        chance = int(hashlib.sha256(f"balance {picture.digest}".encode()).hexdigest()[:13], 16) / 16**13
        count = int(whole) + (chance < rest)
        balanced += [picture._replace(copy=number) for number in range(count)]
    more = Counter(map(_class_of, balanced))
    told = [f"{found.class_names[label]} {counts[label]:,} -> {more[label]:,}" for label in sorted(counts)]
    console.say(f"--balance={balance:g}, training pictures: {', '.join(told[:SHOWN])}{' ...' * (len(told) > SHOWN)}")
    return balanced


def _class_of(picture: Looked) -> int:
    assert isinstance(picture.found.label, int)
    return picture.found.label


def _say_sizes(pictures: Sequence[Looked], console: Console, *, encoded: bool) -> None:
    sizes = [f"{picture.size[1]} x {picture.size[0]}" for picture in pictures]
    changed = sum(not picture.is_kept for picture in pictures)
    if encoded and changed:
        console.say(f"{changed:,} pictures are written anew as PNG, for their format, 16 bits, or transparency")
    console.say(f"formats: {folders.commonest(p.format for p in pictures)}; sizes: {folders.commonest(sizes)}")


def _shape_of(pictures: Sequence[Looked], short_side: int) -> tuple[int, int, int]:
    sizes = Counter(resized(picture.size, short_side) for picture in pictures)
    if len(sizes) > 1:
        (height, width), count = sizes.most_common(1)[0]
        raise UsageError(
            f"the pictures have {len(sizes):,} shapes, {count:,} of {len(pictures):,} are {width} x {height}; decoded "
            "they must have one: use --store=encoded, and crop in --preprocess"
        )
    return (*next(iter(sizes)), 1 if all(picture.is_grey for picture in pictures) else 3)


def resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Computes the height and width of a picture whose shorter side becomes so long; 0: as it is."""
    if not short_side:
        return size
    shorter = min(size)
    height, width = (max(1, round(side * short_side / shorter)) for side in size)
    return height, width


def _load(
    picture: Looked, *, short_side: int, shape: tuple[int, int, int], max_pixels: int
) -> tuple[np.ndarray, Label]:
    path = picture.found.path
    try:
        image = flatten(open_upright(path.read_bytes(), max_pixels=max_pixels)).convert("L" if shape[2] == 1 else "RGB")
    except Exception as error:  # Of pillow's decoders, of almost any class.
        raise DataError(f"{path} is not what it was a moment ago: {error}") from error
    if short_side:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape), picture.found.label
