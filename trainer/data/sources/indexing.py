"""The shards of another program as a data set: every record is looked at, and none is copied that can stay."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trainer.console import Console, bullet_list, progress
from trainer.data import framing
from trainer.data.framing import FRAME_BYTES
from trainer.data.manifest import sha256_of
from trainer.data.sources.folders import commonest, in_order
from trainer.data.sources.foreign_record import Looked, look_at, write_upright
from trainer.data.sources.shards import Names, Shards, Wanted, find_shards, name_classes
from trainer.data.sources.splitting import say_counts
from trainer.data.spec import OWN_FIELDS, DataError, DatasetSpec, RecordFields, Shard, describe_images
from trainer.tf1 import tf

SHOWN = 10  # of records that are damaged
SORTED_RECORDS, SORTED_RUN = 100, 10  # a shard of so many records, whose label changes after so many, is sorted
MORE_CLASSES = 10_000  # than there are examples: a larger label is no number of a class


@dataclass
class Found:
    """What the records of a shard have in common; its memory does not grow with their number."""

    labels: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    texts: dict[int, str] = field(default_factory=dict)  # by label
    num_damaged: int = 0
    damaged: list[str] = field(default_factory=list)  # a line for each of the first
    num_encoded: int = 0  # that have to be encoded anew
    num_boxed: int = 0  # that have boxes
    num_changes: int = 0  # of the label from one record to the next
    last_label: int = -1

    @property
    def is_sorted(self) -> bool:
        """Are records of a class together, several classes of many records?"""
        count = self.labels.total()
        return len(self.labels) > 1 and count >= SORTED_RECORDS and self.num_changes < count / SORTED_RUN

    @property
    def must_be_written(self) -> bool:
        return bool(self.num_damaged or self.num_encoded)

    def add(self, looked: Looked) -> None:
        self.labels[looked.label] += 1
        self.num_changes += looked.label != self.last_label
        self.last_label = looked.label
        self.sizes[looked.size] += 1
        self.formats[looked.format] += 1
        self.num_encoded += not looked.is_kept
        self.num_boxed += looked.has_boxes
        if looked.text:
            self.texts.setdefault(looked.label, looked.text)


def index(name: str, source: Path, wanted: Wanted, folder: Path, console: Console) -> DatasetSpec:
    """Looks at every record of the shards, and says what was found.

    Shards with records that are left out, or that TensorFlow decodes another way than pillow, are written anew.

    Args:
      name: of the data set.
      source: the shards' folder.
      wanted: of it.
      folder: where shards are written anew, which lies elsewhere afterwards.
      console: is printed on.

    Raises:
      DataError: records are damaged, or no data set.
      UsageError: the settings do not fit the shards.
    """
    shards, said = find_shards(source, wanted)
    for line in said:
        console.say(line)
    paths = sorted({path for those in shards.files.values() for path in those})
    total = sum(path.stat().st_size for path in paths)
    found = {}
    with ThreadPoolExecutor() as executor, progress(console, f"looking at {source}", total) as advance:
        for path in paths:
            found[path] = _look_at_shard(path, shards, wanted, executor)
            advance(path.stat().st_size)
    _refuse_damage(list(found.values()), wanted.max_damaged, console)
    empty = next((path for path in paths if not found[path].labels), None)
    if empty:
        raise DataError(f"{empty} holds no records; take it away, or name the others by --files")
    _say_sorted([path for path in paths if found[path].is_sorted], console)
    _say_written(found, console)
    written = {
        path: _write_anew(path, f"{number:05d}-{path.name}", shards, wanted, folder)
        if found[path].must_be_written
        else path.absolute()
        for number, path in enumerate(paths)
    }
    described = {path: _describe_shard(written[path], found[path], folder) for path in paths}  # Reads each once.
    splits = {split: tuple(described[path] for path in those) for split, those in shards.files.items()}
    return _describe(name, source, shards, wanted, found, splits, folder, console)


def _look_at_shard(path: Path, shards: Shards, wanted: Wanted, executor: ThreadPoolExecutor) -> Found:
    found, offset = Found(), 0
    look = functools.partial(_look_with_size, names=shards.names, wanted=wanted)
    for number, (looked, size) in enumerate(in_order(executor, look, _records_of(path, shards))):
        if looked.error:
            found.num_damaged += 1
            if len(found.damaged) < SHOWN:
                found.damaged.append(f"{path}: record {number} at byte {offset}: {looked.error}")
        else:
            found.add(looked)
        offset += FRAME_BYTES + size
    return found


def _records_of(path: Path, shards: Shards) -> Iterator[bytes]:
    try:
        yield from framing.read(path, shards.compression)
    except framing.FrameError as error:
        raise DataError(f"{path}: {error}") from error


def _look_with_size(record: bytes, names: Names, wanted: Wanted) -> tuple[Looked, int]:
    return look_at(record, names, wanted), len(record)


def _refuse_damage(found: list[Found], limit: int, console: Console) -> None:
    count = sum(each.num_damaged for each in found)
    lines = [line for each in found for line in each.damaged][:SHOWN]
    told = f"{count:,}:{bullet_list(lines + ([f'and {count - len(lines):,} more'] if count > len(lines) else []))}"
    if count > limit:
        raise DataError(f"damaged records, {told}\n--skip_corrupt={count} leaves so many out")
    if count:
        console.say(f"left out, as damaged, {told}")


def _say_sorted(paths: list[Path], console: Console) -> None:
    if paths:
        console.say(
            f"{len(paths):,} shards are sorted by class inside, as {paths[0]}: a record only moves to others "
            "of its block (docs/data.md, Inputs); write them shuffled, or train with a larger --shuffle_mb"
        )


def _say_written(found: Mapping[Path, Found], console: Console) -> None:
    count = sum(each.must_be_written for each in found.values())
    encoded = sum(each.num_encoded for each in found.values())
    if count:
        why = "for their format, 16 bits, transparency, or EXIF's orientation"
        what = f": {encoded:,} pictures become PNG, {why}" if encoded else ""
        console.say(f"{count:,} of {len(found):,} shards are written anew{what}; the others stay where they are")


def _write_anew(path: Path, name: str, shards: Shards, wanted: Wanted, folder: Path) -> Path:
    """Writes a shard without its damaged records, and with PNG for what TensorFlow decodes another way than pillow."""
    options = tf.io.TFRecordOptions(compression_type=shards.compression)
    with tf.io.TFRecordWriter(os.fsencode(folder / name), options) as writer:
        for record in _records_of(path, shards):
            looked = look_at(record, shards.names, wanted)
            if looked.error:
                continue
            if not looked.is_kept:
                example = tf.train.Example.FromString(record)
                write_upright(example.features.feature, shards.names, wanted.max_pixels)
                record = example.SerializeToString(deterministic=True)
            writer.write(record)
    return folder / name


def _describe_shard(path: Path, found: Found, folder: Path) -> Shard:
    name = path.name if path.parent == folder else str(path)
    return Shard(name, found.labels.total(), path.stat().st_size, sha256_of(path))


def _describe(
    name: str,
    source: Path,
    shards: Shards,
    wanted: Wanted,
    found: Mapping[Path, Found],
    splits: Mapping[str, tuple[Shard, ...]],
    folder: Path,
    console: Console,
) -> DatasetSpec:
    """Puts together what the records have in common, and says it."""
    names, each = shards.names, found.values()
    sizes = functools.reduce(Counter.__add__, (one.sizes for one in each))
    labels = {
        split: functools.reduce(Counter.__add__, (found[path].labels for path in those))
        for split, those in shards.files.items()
    }
    largest, least = max(map(max, labels.values())), min(map(min, labels.values()))
    if largest >= sum(sizes.values()) + MORE_CLASSES:
        raise DataError(f"{source}: a label is {largest:,}; wanted numbers of classes, from 0 on")
    if least and not wanted.label_offset:
        console.say(f"the labels begin at {least}; --label_offset={least} makes that class 0")
    texts = {label: text for one in each for label, text in one.texts.items()}
    class_names = name_classes(source, largest + 1, texts, wanted.label_offset)
    say_counts(class_names, labels, source, console)
    shown = functools.reduce(Counter.__add__, (one.formats for one in each))
    sides = Counter({f"{width} x {height}": count for (height, width, _), count in sizes.items()})
    console.say(f"{f'formats: {commonest(shown)}; ' if names.image else ''}sizes: {commonest(sides)}")
    shape, smallest = _shape_of(sizes, is_encoded=bool(names.image), source=source)
    fields = RecordFields(
        names.image or OWN_FIELDS.image,
        names.image_raw or OWN_FIELDS.image_raw,
        names.label,
        names.boxes if wanted.label_of or any(one.num_boxed for one in each) else "",
        wanted.label_offset,
        wanted.label_of,
        are_sized=False,
    )
    spec = describe_images(name, shape, class_names, splits, folder, "", smallest)
    return dataclasses.replace(spec, fields=fields, compression=shards.compression)


def _shape_of(
    sizes: Counter[tuple[int, int, int]], *, is_encoded: bool, source: Path
) -> tuple[tuple[int | None, int | None, int], tuple[int, int] | None]:
    """Returns the shape that all pictures have, None where they differ, and the least sides of encoded ones."""
    if not is_encoded:
        if len(sizes) > 1:
            (height, width, depth), count = sizes.most_common(1)[0]
            raise DataError(
                f"{source}: pixels of {len(sizes):,} shapes, {count:,} of {sizes.total():,} are {height} x {width} x "
                f"{depth}; they must have one"
            )
        return next(iter(sizes)), None
    heights, widths, depths = (set(sides) for sides in zip(*sizes, strict=True))
    smallest, depth = (min(heights), min(widths)), max(depths)
    return ((*smallest, depth) if len(heights) == len(widths) == 1 else (None, None, depth)), smallest
