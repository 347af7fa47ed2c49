"""Files of binary records of one length as a data set, where they lie."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from trainer.console import Console
from trainer.data.binary import BinaryLayout, parse_layout
from trainer.data.manifest import sha256_of
from trainer.data.sources.shards import SPLIT_WORD, Wanted, find_files, name_classes
from trainer.data.sources.splitting import SPLIT_NAMES, TRAIN, say_counts
from trainer.data.spec import DataError, DatasetSpec, RecordFields, Shard, describe_images
from trainer.errors import UsageError

SUFFIX = ".bin"
MOST_CLASSES = 100_000


def index(name: str, source: Path, wanted: Wanted, record: str, folder: Path, console: Console) -> DatasetSpec:
    """Counts the records of files, and says what was found.

    Args:
      name: of the data set.
      source: the files' folder.
      wanted: their splits, and what is subtracted from the labels.
      record: how a record is made, as `parse_layout` reads it.
      folder: of the manifest.
      console: is printed on.

    Raises:
      DataError: a file is no whole number of records, or a label no class.
      UsageError: the settings do not say what lies there.
    """
    if not record:
        raise UsageError(
            "--kind=binary needs --record, as --record=label:1,image:3072,shape=32x32x3,order=CHW for CIFAR-10"
        )
    layout = parse_layout(record)
    files, said = find_files(source, wanted.files, _files_by_name)
    for line in said:
        console.say(line)
    labels = {path: _count_labels(path, layout, wanted.label_offset) for paths in files.values() for path in paths}
    counts = {split: sum((labels[path] for path in paths), Counter()) for split, paths in files.items()}
    class_names = name_classes(source, max(map(max, counts.values())) + 1, {}, wanted.label_offset)
    say_counts(class_names, counts, source, console)
    shards = {
        path: Shard(str(path.absolute()), found.total(), path.stat().st_size, sha256_of(path))
        for path, found in labels.items()
    }
    splits = {split: tuple(shards[path] for path in paths) for split, paths in files.items()}
    spec = describe_images(name, layout.shape, class_names, splits, folder)
    fields = RecordFields(label_offset=wanted.label_offset, are_sized=False, binary=record)
    return dataclasses.replace(spec, fields=fields)


def _files_by_name(source: Path) -> dict[str, tuple[Path, ...]]:
    """Finds the files of a folder; those whose names say no split are for training."""
    files: dict[str, tuple[Path, ...]] = {}
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        if path.is_file() and path.suffix == SUFFIX:
            word = SPLIT_WORD.search(path.name)
            split = SPLIT_NAMES[word[1].lower()] if word else TRAIN
            files[split] = (*files.get(split, ()), path)
    return files


def _count_labels(path: Path, layout: BinaryLayout, offset: int) -> Counter[int]:
    size = path.stat().st_size
    if size == 0 or size % layout.record_bytes:
        raise DataError(f"{path} has {size:,} bytes, no whole number of records of {layout.record_bytes:,} bytes")
    frames = np.memmap(path, np.uint8, "r", shape=(size // layout.record_bytes, layout.record_bytes))
    digits = frames[:, layout.label : layout.label + layout.label_bytes].astype(np.int64)
    found = Counter((digits @ 256 ** np.arange(layout.label_bytes)).tolist())
    if min(found) < offset or max(found) - offset >= MOST_CLASSES:
        raise DataError(
            f"{path}: labels from {min(found):,} to {max(found):,}, less --label_offset={offset}: wanted classes "
            "from 0 on; is --record right?"
        )
    return Counter({label - offset: count for label, count in found.items()})
