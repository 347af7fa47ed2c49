"""TFRecord shards that another program wrote: which files, which features, and what the classes are called."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.data import framing
from trainer.data.sources.splitting import SPLIT_NAMES, TRAIN
from trainer.data.spec import LABEL_OF, SPLITS, DataError
from trainer.errors import UsageError, unknown_name
from trainer.tf1 import tf

# A word of a file's name, as in train-00000-of-00008 or flowers_validation_00000-of-00005.tfrecord.
SPLIT_WORD = re.compile(rf"(?:^|[_.-])({'|'.join(SPLIT_NAMES)})(?=$|[_.0-9-])", re.IGNORECASE)
NUMBERED = re.compile(r"-\d+-of-(\d+)")
LABELS_FILE = "labels.txt"
LOOKED_AT = 20  # files, to recognize a folder of shards


class Names(NamedTuple):
    """The features of records, by what they hold; empty where there is none."""

    image: str = ""  # the bytes of an image file
    image_raw: str = ""  # pixels, uint8, with the three that follow
    height: str = "height"
    width: str = "width"
    depth: str = "depth"
    label: str = "label"
    boxes: str = ""  # without /xmin, /ymin, /xmax, /ymax
    text: str = ""  # the name of the class


# Of TF-Slim and tf_cnn_benchmarks, and of TensorFlow's Object Detection API.
PRESETS = {
    "slim": Names("image/encoded", label="image/class/label", boxes="image/object/bbox", text="image/class/text"),
    "detection": Names(
        "image/encoded", label="image/object/class/label", boxes="image/object/bbox", text="image/object/class/text"
    ),
}
OWN = (Names("image"), Names(image_raw="image_raw"))


class Wanted(NamedTuple):
    """What a user says of the shards of another program."""

    files: str = ""  # as --files
    features: str = ""
    preset: str = ""
    label_offset: int = 0
    label_of: str = ""
    max_damaged: int = 0  # records that may be left out
    max_pixels: int = 0


class Shards(NamedTuple):
    """The shards of another program, before they are read."""

    files: Mapping[str, tuple[Path, ...]]  # by split
    compression: str
    names: Names


def holds_shards(source: Path) -> bool:
    """Recognizes shards by their content."""
    paths = sorted(source.iterdir())[:LOOKED_AT] if source.is_dir() else [source]
    try:
        return any(path.is_file() and framing.find_compression(path) is not None for path in paths)
    except OSError:  # Whatever needs the file says so.
        return False


def find_shards(source: Path, wanted: Wanted) -> tuple[Shards, list[str]]:
    """Finds the shards of each split, and how their records are made; returns also what is to be said of it.

    Raises:
      DataError: there are none, or they are packed in several ways.
      UsageError: the settings name no file, no feature, or nothing known.
    """
    if wanted.label_of not in LABEL_OF:
        raise unknown_name("label_of", wanted.label_of, LABEL_OF[1:])
    files, said = find_files(source, wanted.files, _files_by_name)
    try:
        packed = {path: framing.find_compression(path) for paths in files.values() for path in paths}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    no_records = [path for path, compression in packed.items() if compression is None]
    if no_records:
        raise DataError(f"{no_records[0]} is no file of TFRecords, plain or packed by GZIP or ZLIB")
    kinds = sorted({str(compression) for compression in packed.values()})
    if len(kinds) > 1:
        raise DataError(
            f"{source}: some shards are packed ({', '.join(filter(None, kinds))}), others not so: pack all alike"
        )
    first = _first_record(files[TRAIN][0], kinds[0])
    names = _parse_names(wanted.features) if wanted.features else _known_names(wanted.preset, first, files[TRAIN][0])
    there = set(first.features.feature)
    lacking = sorted({names.image or names.image_raw, names.label} - there)
    if lacking:
        known = ", ".join(sorted(there))
        raise UsageError(f"{files[TRAIN][0]}: its records have no {' and no '.join(lacking)}, only {known}")
    return Shards(files, kinds[0], names), said


def find_files(
    source: Path, text: str, by_name: Callable[[Path], dict[str, tuple[Path, ...]]]
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Finds the files of each split, and returns what is to be said of them.

    Args:
      source: their folder.
      text: of --files; empty: the files' names say it.
      by_name: finds the files of a folder by their names.

    Raises:
      UsageError: there are none for a split.
    """
    files = _named_files(source, text) if text else by_name(source)
    said = []
    for split, other in (("validation", "test"), ("test", "validation")):
        if split not in files and other in files:
            files[split] = files[other]
            said.append(
                f"no {split} shards are named: those of {other} stand for them, so that both figures are the same"
            )
    missing = [split for split in SPLITS if split not in files]
    if missing:
        raise UsageError(
            f"{source}: no shards for {' and '.join(missing)}; name some: --files='train=GLOB,validation=GLOB'"
        )
    return {split: files[split] for split in SPLITS}, said


def _named_files(source: Path, text: str) -> dict[str, tuple[Path, ...]]:
    files: dict[str, tuple[Path, ...]] = {}
    for part in text.split(","):
        word, equals, pattern = part.partition("=")
        split = SPLIT_NAMES.get(word.strip().lower())
        if not split or not equals or not pattern:
            raise UsageError(f"--files={text}: {part!r}: wanted SPLIT=GLOB, of {', '.join(SPLIT_NAMES)}")
        paths = glob.glob(f"{glob.escape(str(source))}/{pattern}", recursive=True)  # noqa: PTH207  (of any pattern)
        found = tuple(sorted(each for each in map(Path, paths) if each.is_file()))
        if not found:
            raise UsageError(f"--files={text}: no file matches {source / pattern}")
        twice = next((path for path in found if any(path in others for others in files.values())), None)
        if twice:
            raise UsageError(f"--files={text}: {twice} is named twice; each file belongs to one split")
        files[split] = files.get(split, ()) + found
    return files


def _files_by_name(source: Path) -> dict[str, tuple[Path, ...]]:
    """Finds the shards of a folder whose names say their split."""
    if not source.is_dir():
        raise UsageError(f"{source} is one file of records: give its folder, and --files='train=GLOB,validation=GLOB'")
    files: dict[str, tuple[Path, ...]] = {}
    for path in sorted(source.iterdir()):
        word, numbered = SPLIT_WORD.search(path.name), NUMBERED.search(path.name)
        # What calls itself one of several shards is wanted, whatever lies in it.
        if word and (numbered or (path.is_file() and framing.find_compression(path) is not None)):
            split = SPLIT_NAMES[word[1].lower()]
            files[split] = (*files.get(split, ()), path)
    for split, paths in files.items():
        counts = Counter(int(numbered[1]) for path in paths if (numbered := NUMBERED.search(path.name)))
        for total, count in counts.items():
            if total and count % total:
                raise DataError(f"{source} holds {count} of the {total} shards for {split} of which their names speak")
    return files


def _first_record(path: Path, compression: str) -> tf.train.Example:
    try:
        record = next(framing.read(path, compression), None)
    except framing.FrameError as error:
        raise DataError(f"{path}: {error}") from error
    if record is None:
        raise DataError(f"{path} holds no records")
    try:
        return tf.train.Example.FromString(record)
    except Exception as error:  # The class of protobuf's error differs between its implementations.
        raise DataError(f"{path}: its records are no tf.train.Example") from error


def _known_names(preset: str, first: tf.train.Example, path: Path) -> Names:
    """Chooses a preset: the given one, or the one whose features the first record has."""
    if preset:
        if preset not in PRESETS:
            raise unknown_name("preset", preset, PRESETS)
        return PRESETS[preset]
    there = set(first.features.feature)
    for names in (*PRESETS.values(), *OWN):
        if (names.image or names.image_raw) in there and names.label in there:
            return names
    raise UsageError(
        f"{path}: its records hold {', '.join(sorted(there)) or 'nothing'}; say which are the picture and its class: "
        "--features='image=FEATURE,label=FEATURE'"
    )


def _parse_names(text: str) -> Names:
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, feature = (word.strip() for word in part.partition("="))
        if name not in Names._fields or not equals or not feature:
            raise UsageError(f"--features={text}: {part!r}: wanted NAME=FEATURE, of {', '.join(Names._fields)}")
        values[name] = feature
    if ("image" in values) == ("image_raw" in values) or "label" not in values:
        raise UsageError(f"--features={text}: wanted label, and either image (encoded) or image_raw (pixels)")
    return Names(**values)


def name_classes(source: Path, num_classes: int, texts: Mapping[int, str], label_offset: int) -> tuple[str, ...]:
    """Names the classes: by `labels.txt`, by a feature of the records, or by their numbers.

    Args:
      source: the folder of `labels.txt`: a name a line, or as TF-Slim's `3:sunflowers`, with the label of the records.
      num_classes: how many there are at least.
      texts: the names that records gave to classes.
      label_offset: is subtracted from the labels of the records.

    Raises:
      DataError: `labels.txt` is damaged, or has too few names.
    """
    path = (source if source.is_dir() else source.parent) / LABELS_FILE
    if path.is_file():
        named = dict(_read_labels(path, label_offset))
        missing = [number for number in range(num_classes) if number not in named]
        if missing:
            raise DataError(f"{path} has no name for class {missing[0]}, and the labels go up to {num_classes - 1}")
        return tuple(named.get(number, str(number)) for number in range(max(named, default=0) + 1))
    used = [texts.get(number, str(number)) for number in range(num_classes)]
    if len(set(used)) < num_classes:
        return tuple(str(number) for number in range(num_classes))
    return tuple(used)


def _read_labels(path: Path, label_offset: int) -> Iterator[tuple[int, str]]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8") from error
    for place, line in enumerate(line for line in lines if line):
        number, colon, name = line.partition(":")
        if not colon or not number.isdecimal():
            yield place, line
        elif int(number) >= label_offset:
            yield int(number) - label_offset, name
