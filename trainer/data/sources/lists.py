"""Pictures named in a list: CSV or TSV with a header, `path`, `label` and, where it tells them, `split`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from trainer.data.sources.folders import Folder, Found
from trainer.data.sources.splitting import SPLIT_NAMES
from trainer.data.spec import DataError

WANTED = "a header with path and label, and a line for each picture"
BOXES = ("xmin", "ymin", "xmax", "ymax")
TARGET = "target:"


def find_pictures(source: Path) -> Folder:
    """Finds the pictures of a list; paths are relative to its folder.

    Labels are names of classes. Where all of them are whole numbers, the classes are in the order of these.

    Raises:
      DataError: it is no list, or a line of it is wrong.
    """
    rows = _read_rows(source)
    labels = [label for _, label, _ in rows]
    numbers = all(label.isdecimal() for label in labels)
    names = sorted(set(labels), key=int if numbers else None)
    places = {name: number for number, name in enumerate(names)}
    pictures = [Found(source.parent / path, places[label], split) for path, label, split in rows]
    return Folder(tuple(names), pictures, [])


def _read_rows(source: Path) -> list[tuple[str, str, str]]:
    """Reads path, label and split of each line."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="\t" if "\t" in head else ",", strict=True)
            _check_header(source, reader.fieldnames or [])
            rows = [_read_row(f"{source}:{reader.line_num}", row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no list in UTF-8; wanted {WANTED}") from error
    except csv.Error as error:
        raise DataError(f"{source} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}") from error
    if not rows:
        raise DataError(f"{source} names no pictures; wanted {WANTED}")
    return rows


def _check_header(source: Path, names: Sequence[str]) -> None:
    missing = [name for name in ("path", "label") if name not in names]
    unread = [name for name in names if name in BOXES or name.startswith(TARGET)]
    if unread:
        raise DataError(f"{source}: column {unread[0]}: boxes and targets are not read by this version; leave them out")
    if missing:
        raise DataError(f"{source} has no column {missing[0]}, only {', '.join(names) or 'none'}; wanted {WANTED}")


def _read_row(where: str, row: dict[str, str | None]) -> tuple[str, str, str]:
    path, label, split = (row.get(name, "") for name in ("path", "label", "split"))
    if None in row or path is None or label is None or split is None:
        raise DataError(f"{where}: has another number of columns than the header")
    if not path or not label.strip():
        raise DataError(f"{where}: {'path' if not path else 'label'} is empty")
    if ";" in label:
        raise DataError(f"{where}: label {label!r}: several labels a picture are not read by this version")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: split {split!r}: wanted {', '.join(SPLIT_NAMES)} or nothing")
    return path, label.strip(), SPLIT_NAMES.get(split.lower(), "")
