"""Arrays in Keras's layout: x_train, y_train, x_test, y_test in one `.npz`, or in a folder of `.npy`."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.console import Console
from trainer.data.sources.named import Source
from trainer.data.sources.splitting import SPLIT_NAMES, TRAIN, choose_splits, say_counts
from trainer.data.spec import SPLITS, DataError

DEPTHS = (1, 3, 4)


class Part(NamedTuple):
    """The arrays of one split."""

    images: np.ndarray  # uint8 [n, height, width, depth]
    labels: np.ndarray  # integers [n]


def holds_arrays(source: Path) -> bool:
    """Recognizes arrays by their content."""
    if source.is_dir():
        return (source / "x_train.npy").is_file()
    return zipfile.is_zipfile(source)


def make_source(source: Path, shares: tuple[float, float, float], console: Console) -> Source:
    """Reads the arrays, and says what was found.

    Args:
      source: a `.npz` file, or a folder of `.npy` files.
      shares: of training, validation and test; a split that the arrays lack is taken from the training ones.
      console: is printed on.

    Raises:
      DataError: they are not of this layout.
    """
    parts = {split: part for split, part in _read_parts(source) if part is not None}
    if TRAIN not in parts:
        raise DataError(f"{source} holds no x_train; wanted x_train, y_train, x_test, y_test as Keras's data sets")
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise DataError(f"{source}: images of {' and '.join(str(list(shape)) for shape in sorted(shapes))}")
    chosen = _choose(parts, shares)
    largest, count = max(int(part.labels.max()) for part in parts.values()), sum(len(p.labels) for p in parts.values())
    if largest >= count:
        raise DataError(f"{source}: a label is {largest:,}, of {count:,} images; number the classes from 0 on")
    names = [str(label) for label in range(largest + 1)]
    counts = {split: Counter(int(parts[part].labels[place]) for part, place in chosen[split]) for split in SPLITS}
    say_counts(names, counts, source, console)

    def read(_: Path, split: str) -> Iterator[tuple[np.ndarray, int]]:
        for part, place in chosen[split]:
            yield parts[part].images[place], int(parts[part].labels[place])

    sizes = {split: len(places) for split, places in chosen.items()}
    height, width, depth = next(iter(shapes))
    return Source((height, width, depth), tuple(names), sizes, "", read)


def _choose(parts: Mapping[str, Part], shares: tuple[float, float, float]) -> dict[str, list[tuple[str, int]]]:
    """Chooses the examples of each split: which split's arrays they lie in, and where."""
    chosen: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for name, part in parts.items():
        places = range(len(part.labels))
        splits = [name] * len(places)
        if name == TRAIN and len(parts) < len(SPLITS):
            digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in part.images]
            splits = choose_splits(digests, splits, shares, parts)
        for place, split in zip(places, splits, strict=True):
            chosen[split].append((name, place))
    return chosen


def _read_parts(source: Path) -> Iterator[tuple[str, Part | None]]:
    try:
        arrays = _open(source)
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    for name, split in SPLIT_NAMES.items():
        if f"x_{name}" in arrays:
            yield split, _check(source, name, *(_load(source, arrays, f"{letter}_{name}") for letter in "xy"))


def _open(source: Path) -> Mapping[str, np.ndarray]:
    if source.is_dir():
        paths = sorted(source.glob("[xy]_*.npy"))
        return {path.stem: np.load(path, mmap_mode="r") for path in paths}
    loaded: Mapping[str, np.ndarray] = np.load(source)  # Without Python objects, as numpy has it by default.
    return loaded


def _load(source: Path, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise DataError(f"{source} holds no {name}, only {', '.join(sorted(arrays))}")
    try:
        return arrays[name]
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:  # Damaged, or of Python objects.
        raise DataError(f"{source}: {name} cannot be read: {error}") from error


def _check(source: Path, name: str, images: np.ndarray, labels: np.ndarray) -> Part:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{source}: x_{name} is {images.dtype} {list(images.shape)}; wanted uint8, 0 to 255, "
            "[n, height, width] or [n, height, width, depth]"
        )
    images = images[..., np.newaxis] if images.ndim == 3 else images
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if images.shape[3] not in DEPTHS:
        raise DataError(f"{source}: x_{name} has {images.shape[3]} channels, wanted 1, 3 or 4, as the last dimension")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise DataError(f"{source}: y_{name} is {labels.dtype} {list(labels.shape)}; wanted a whole number an image")
    if len(labels) != len(images) or int(labels.min()) < 0:
        raise DataError(
            f"{source}: y_{name} has {len(labels):,} labels from {int(labels.min())} on, wanted "
            f"{len(images):,} from 0 on"
        )
    return Part(images, labels)
