"""`manifest.json`: what lies in a directory of shards, and whether it is still what was written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

MANIFEST = "manifest.json"
FORMAT = 1
SPLITS = ("train", "validation", "test")


class DataError(TrainerError):
    """Data on disk is missing, damaged, or not what its manifest says."""


@dataclass(frozen=True)
class Shard:
    file: str
    num_examples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Describes the shards of one data set."""

    dataset: str
    image_shape: tuple[int, int, int]  # height, width, depth
    class_names: tuple[str, ...]
    attribution: str
    splits: dict[str, tuple[Shard, ...]]

    def num_examples(self, split: str) -> int:
        return sum(shard.num_examples for shard in self.splits[split])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_bytes(self) -> int:
        height, width, depth = self.image_shape
        return height * width * depth


def save_manifest(manifest: Manifest, folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(manifest)}, indent=2) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """Reads a directory's manifest.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        return _parse(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; convert the data first with python -m trainer.convert") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged ({what}): remove {folder} and convert the data again") from error


def _parse(values: Any) -> Manifest:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"it has no format {FORMAT}")
    height, width, depth = (_positive(size, "image_shape") for size in values["image_shape"])
    names = values["class_names"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    return Manifest(
        dataset=str(values["dataset"]),
        image_shape=(height, width, depth),
        class_names=tuple(names),
        attribution=str(values["attribution"]),
        splits={name: _parse_shards(name, values["splits"][name]) for name in SPLITS},
    )


def _parse_shards(split: str, values: list[dict[str, Any]]) -> tuple[Shard, ...]:
    if not values:
        raise ValueError(f"{split} has no shards")
    for shard in values:
        _positive(shard["num_examples"], "num_examples")
        _positive(shard["num_bytes"], "num_bytes")
        if not isinstance(shard["file"], str) or Path(shard["file"]).name != shard["file"]:
            raise ValueError(f"{shard['file']!r} is no file name")
    return tuple(Shard(**shard) for shard in values)


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, wanted a positive whole number")
    return value


def check_shards(manifest: Manifest, folder: Path) -> None:
    """Compares every shard with the manifest: it is there, and has the size that was written.

    Raises:
      DataError: one differs; the message names the first.
    """
    for shards in manifest.splits.values():
        for shard in shards:
            path = folder / shard.file
            if not path.is_file():
                raise DataError(f"{path} is missing: remove {folder} and convert the data again")
            size = path.stat().st_size
            if size != shard.num_bytes:
                raise DataError(
                    f"{path} has {size:,} bytes, its manifest says {shard.num_bytes:,}: "
                    f"remove {folder} and convert the data again"
                )


def differing_checksum(manifest: Manifest, folder: Path) -> Shard | None:
    """Finds the first shard whose content is not what was written; reads every byte."""
    for shards in manifest.splits.values():
        for shard in shards:
            if sha256_of(folder / shard.file) != shard.sha256:
                return shard
    return None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
