"""Pictures named in a list: CSV or TSV with a header, path and label or targets, and perhaps split and boxes."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.data.sources.folders import Folder, Found
from trainer.data.sources.splitting import SPLIT_NAMES
from trainer.data.spec import CLASS, NUMBERS, SEVERAL, Box, DataError, Label

WANTED = "a header with path and label (or target:NAME, numbers), and a line for each picture"
CORNERS = ("ymin", "xmin", "ymax", "xmax")
TARGET = "target:"
BETWEEN = ";"  # several labels
ROUNDING = 1e-3
LARGEST = 3.4e38  # that float32 holds


class Row(NamedTuple):
    """A line of a list."""

    path: str
    label: str
    targets: tuple[float, ...]
    split: str
    boxes: tuple[Box, ...]  # as they stand there: none or one, but for rows that are joined


def find_pictures(source: Path) -> Folder:
    """Finds the pictures of a list; paths are relative to its folder.

    Labels are names of classes, several of a picture with `;` between them. Where all of them are whole numbers, the
    classes are in the order of these. Lines of the same path that have boxes are one picture with several objects.

    Raises:
      DataError: it is no list, or a line of it is wrong.
    """
    rows, targets = _read_rows(source)
    in_pixels = _are_in_pixels(source, [box for row in rows for box in row.boxes])
    is_several = any(BETWEEN in row.label for row in rows)
    kind = NUMBERS if targets else SEVERAL if is_several else CLASS
    used = {name for row in rows for name in _names_of(row.label)}
    numbers = all(name.isdecimal() for name in used)
    names = tuple(targets) or tuple(sorted(used, key=int if numbers else None))
    places = {name: number for number, name in enumerate(names)}

    def found(row: Row) -> Found:
        label: Label = row.targets
        if kind != NUMBERS:
            labels = tuple(sorted({places[name] for name in _names_of(row.label)}))
            label = labels if kind == SEVERAL else labels[0]
        boxes = row.boxes if in_pixels else tuple(Box(*(min(corner, 1.0) for corner in box)) for box in row.boxes)
        return Found(source.parent / row.path, label, row.split, boxes, in_pixels)

    nameless = next((row for row in rows if kind == CLASS and not row.label), None)
    if nameless:
        raise DataError(f"{source}: {nameless.path} has an empty label; wanted a class for each picture")
    if not names:
        raise DataError(f"{source}: all labels are empty; wanted {WANTED}")
    return Folder(names, [found(row) for row in rows], [], kind)


def _are_in_pixels(source: Path, boxes: Sequence[Box]) -> bool:
    """Tells pixels from fractions of 0..1, which rounding may have made a little larger.

    Raises:
      DataError: there are boxes of both.
    """
    pixels = [box for box in boxes if max(box) > 1 + ROUNDING]
    fractions = [box for box in boxes if max(box) <= 1 + ROUNDING]
    if pixels and fractions:
        raise DataError(
            f"{source}: one box is {tuple(fractions[0])} ({', '.join(CORNERS)}), another {tuple(pixels[0])}: "
            "wanted all as fractions of 0..1, or all in pixels"
        )
    return bool(pixels)


def _names_of(label: str) -> list[str]:
    return [name for name in (part.strip() for part in label.split(BETWEEN)) if name]


def _read_rows(source: Path) -> tuple[list[Row], list[str]]:
    """Reads the lines, and the names of the targets."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = next((each for each in ("\t", ",", ";") if each in head), ",")
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            _check_header(source, columns)
            rows = [(reader.line_num, _read_row(f"{source}:{reader.line_num}", row, columns)) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no list in UTF-8; wanted {WANTED}") from error
    except csv.Error as error:
        raise DataError(f"{source} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}") from error
    if not rows:
        raise DataError(f"{source} names no pictures; wanted {WANTED}")
    targets = [name.removeprefix(TARGET) for name in columns if name.startswith(TARGET)]
    has_boxes = CORNERS[0] in columns
    return _joined(source, rows) if has_boxes else [row for _, row in rows], targets


def _check_header(source: Path, names: Sequence[str]) -> None:
    targets, corners = [name for name in names if name.startswith(TARGET)], [name for name in CORNERS if name in names]
    missing = [name for name in ("path", *(() if targets else ("label",))) if name not in names]
    if missing:
        raise DataError(f"{source} has no column {missing[0]}, only {', '.join(names) or 'none'}; wanted {WANTED}")
    if targets and "label" in names:
        raise DataError(f"{source} has columns label and {targets[0]}: wanted classes or numbers, not both")
    if TARGET in targets or len(set(names)) < len(names):
        raise DataError(f"{source}: its columns are {', '.join(names)}; each needs a name of its own")
    if corners and len(corners) < len(CORNERS):
        lacking = next(name for name in CORNERS if name not in corners)
        raise DataError(f"{source} has a column {corners[0]} and none {lacking}; a box is {', '.join(CORNERS)}")


def _read_row(where: str, row: Mapping[str | None, str | None], columns: Sequence[str]) -> Row:
    if None in row or None in row.values():
        raise DataError(f"{where}: has another number of columns than the header")
    values = {str(name): str(value) for name, value in row.items()}
    path, split = values["path"], values.get("split", "").strip()
    if not path:
        raise DataError(f"{where}: path is empty")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: split {split!r}: wanted {', '.join(SPLIT_NAMES)} or nothing")
    targets = tuple(_number(where, name, values[name]) for name in columns if name.startswith(TARGET))
    boxes: tuple[Box, ...] = ()
    if CORNERS[0] in values and any(values[name].strip() for name in CORNERS):
        box = Box(*(_number(where, name, values[name]) for name in CORNERS))
        if min(box) < 0:
            raise DataError(f"{where}: the box {tuple(box)} ({', '.join(CORNERS)}) lies outside of the picture")
        if not (box.ymin < box.ymax and box.xmin < box.xmax):
            raise DataError(f"{where}: the box {tuple(box)} ({', '.join(CORNERS)}) has no area")
        boxes = (box,)
    return Row(path, values.get("label", "").strip(), targets, SPLIT_NAMES.get(split.lower(), ""), boxes)


def _number(where: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise DataError(f"{where}: {name} is {text!r}, wanted a number of float32")
    return number


def _joined(source: Path, rows: Iterable[tuple[int, Row]]) -> list[Row]:
    """Makes one row of those of the same path.

    Raises:
      DataError: they differ in more than their boxes.
    """
    by_path: dict[str, Row] = {}
    for line, row in rows:
        path = os.path.normpath(row.path)
        row = row._replace(path=path)
        first = by_path.setdefault(path, row._replace(boxes=()))
        if row._replace(boxes=()) != first._replace(boxes=()):
            raise DataError(
                f"{source}:{line}: {row.path} has another label or split than in a line before; its lines may differ "
                f"in their boxes alone (several labels: joined by {BETWEEN})"
            )
        by_path[path] = first._replace(boxes=first.boxes + row.boxes)
    return list(by_path.values())
